#include "preload/graph_capture.h"

#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "preload/real_driver.h"

namespace kvshim::preload {

namespace graph_capture_detail {
std::atomic<int> captures{0};
}

namespace {

struct Capture {
  CUgraph graph = nullptr;
  bool unguarded = false;
};

struct Records {
  std::mutex mutex;                                     // never held across a driver call
  std::unordered_map<std::uint64_t, Capture> captures;  // by the driver's capture id
  std::unordered_set<CUgraph> guarded;
  std::unordered_map<CUgraphNode, std::vector<CUgraph>> conditionals;
};

// Leaked: graphs may still be used while static destructors run.
Records& records() noexcept {
  static auto* const all = new Records;
  return *all;
}

struct CaptureState {
  std::uint64_t id = 0;
  CUgraph graph = nullptr;
};

/// Legal while capturing; also answers for a capture that was invalidated.
std::optional<CaptureState> ask_driver(StreamRef stream) noexcept {
  const auto get_info = real().cuStreamGetCaptureInfo_v2;
  if (get_info == nullptr) return std::nullopt;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  CUgraph graph = nullptr;
  const CUgraphNode* dependencies = nullptr;
  std::size_t count = 0;
  if (get_info(stream.explicit_handle(), &status, &id, &graph, &dependencies, &count) !=
          CUDA_SUCCESS ||
      status != CU_STREAM_CAPTURE_STATUS_ACTIVE) {
    return std::nullopt;
  }
  return CaptureState{id, graph};
}

void forget_capture(Records& all, std::uint64_t id) {
  if (all.captures.erase(id) != 0) --graph_capture_detail::captures;
}

}  // namespace

void capture_began(StreamRef stream, bool into_existing) noexcept {
  const std::optional<CaptureState> state = ask_driver(stream);
  if (!state) return;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.erase(state->graph);
  try {
    if (all.captures.insert_or_assign(state->id, Capture{state->graph, into_existing}).second) {
      ++graph_capture_detail::captures;
    }
  } catch (...) {  // no memory: the graph will count as manual
  }
}

std::optional<std::uint64_t> capture_of(StreamRef stream) noexcept {
  if (!any_capture()) return std::nullopt;
  const std::optional<CaptureState> state = ask_driver(stream);
  if (!state) return std::nullopt;
  return state->id;
}

void capture_ended(StreamRef stream, std::optional<std::uint64_t> id, CUresult result,
                   CUgraph graph) noexcept {
  if (!id) {
    if (result == CUDA_SUCCESS && graph != nullptr) graph_gone(graph);
    return;
  }
  // Ended from the wrong thread, for one, it goes on.
  if (result != CUDA_SUCCESS) {
    const std::optional<CaptureState> state = ask_driver(stream);
    if (state && state->id == *id) return;
  }
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const auto found = all.captures.find(*id);
  const bool guarded = found != all.captures.end() && !found->second.unguarded;
  forget_capture(all, *id);
  if (result != CUDA_SUCCESS || graph == nullptr) return;
  all.guarded.erase(graph);
  if (!guarded) return;
  try {
    all.guarded.insert(graph);
  } catch (...) {  // manual, then
  }
}

void capture_gets_unguarded_work(StreamRef stream) noexcept {
  const std::optional<std::uint64_t> id = capture_of(stream);
  if (!id) return;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const auto found = all.captures.find(*id);
  if (found != all.captures.end()) found->second.unguarded = true;
}

bool graph_is_guarded(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  return all.guarded.contains(graph);
}

void graph_edited(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.erase(graph);
  for (auto& [id, capture] : all.captures) {
    if (capture.graph == graph) capture.unguarded = true;
  }
}

void node_edited() noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.clear();
  for (auto& [id, capture] : all.captures) capture.unguarded = true;
}

void graph_cloned(CUgraph original, CUgraph clone) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const bool guarded = all.guarded.contains(original);
  all.guarded.erase(clone);
  try {
    if (guarded) all.guarded.insert(clone);
  } catch (...) {  // manual, then
  }
}

void graph_gone(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.erase(graph);
}

void conditional_added(CUgraphNode node, std::span<const CUgraph> bodies) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  try {
    all.conditionals.insert_or_assign(node, std::vector<CUgraph>(bodies.begin(), bodies.end()));
  } catch (...) {  // unknown bodies: the graph will reach everything
    all.conditionals.erase(node);
  }
}

std::vector<CUgraph> conditional_bodies(CUgraphNode node) {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const auto found = all.conditionals.find(node);
  return found != all.conditionals.end() ? found->second : std::vector<CUgraph>{};
}

}  // namespace kvshim::preload
