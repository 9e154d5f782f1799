#include "preload/graph_capture.h"

#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "preload/never_destroyed.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

namespace graph_capture_detail {
std::atomic<int> captures{0};
}

namespace {

struct Capture {
  CUgraph graph = nullptr;
  bool unguarded = false;
  // Where it began, which is where it must end. The per-thread default stream's
  // handle means another stream in each thread.
  CUstream origin = nullptr;
  std::thread::id thread;
  CUcontext context = nullptr;  // null: not known
};

struct Records {
  std::mutex mutex;                                     // never held across a driver call
  std::unordered_map<std::uint64_t, Capture> captures;  // by the driver's capture id
  std::unordered_set<CUgraph> guarded;
  std::unordered_set<CUgraph> embedded;  // children that the program asked for
  std::unordered_map<CUgraphNode, std::vector<CUgraph>> conditionals;
};

NeverDestroyed<Records>& all_records() noexcept {
  static NeverDestroyed<Records> all;
  return all;
}
Records& records() noexcept { return *all_records(); }

struct CaptureState {
  std::uint64_t id = 0;
  CUgraph graph = nullptr;
};

/// Legal while capturing. Nothing for a capture that was invalidated: the driver
/// doesn't give its id any more.
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

CUcontext context_of(StreamRef stream) noexcept {
  CUcontext context = nullptr;
  const auto get_context = real().cuStreamGetCtx;
  if (get_context != nullptr) get_context(stream.explicit_handle(), &context);
  return context;
}

bool began_on(const Capture& capture, CUstream stream) {
  return capture.origin == stream &&
         (stream != CU_STREAM_PER_THREAD || capture.thread == std::this_thread::get_id());
}

/// Removes the capture that began on the stream; whether all of it was guarded.
bool take_capture(Records& all, CUstream stream) {
  for (auto it = all.captures.begin(); it != all.captures.end(); ++it) {
    if (!began_on(it->second, stream)) continue;
    const bool guarded = !it->second.unguarded;
    all.captures.erase(it);
    --graph_capture_detail::captures;
    return guarded;
  }
  return false;
}

}  // namespace

void capture_began(StreamRef stream, bool into_existing) noexcept {
  const std::optional<CaptureState> state = ask_driver(stream);
  if (!state) {
    ++graph_capture_detail::captures;  // can't be followed: counts as under way for ever
    return;
  }
  const CUcontext context = context_of(stream);
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.erase(state->graph);
  take_capture(all, stream.explicit_handle());  // one whose end was missed
  try {
    const Capture capture{state->graph, into_existing, stream.explicit_handle(),
                          std::this_thread::get_id(), context};
    if (all.captures.insert_or_assign(state->id, capture).second) ++graph_capture_detail::captures;
  } catch (...) {  // no memory: the graph will count as manual
    ++graph_capture_detail::captures;
  }
}

void capture_ended(StreamRef stream, CUresult result, CUgraph graph) noexcept {
  // Ended from the wrong thread, for one, it goes on.
  if (result != CUDA_SUCCESS && any_capture() && ask_driver(stream)) return;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const bool guarded = take_capture(all, stream.explicit_handle());
  if (result != CUDA_SUCCESS || graph == nullptr) return;
  all.guarded.erase(graph);
  if (!guarded) return;
  try {
    all.guarded.insert(graph);
  } catch (...) {  // manual, then
  }
}

void stream_gone(CUstream stream) noexcept {
  if (!any_capture()) return;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  take_capture(all, stream);
}

void captures_gone(CUcontext ended) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const auto gone = std::erase_if(all.captures, [&](const auto& entry) {
    return entry.second.context == nullptr || entry.second.context == ended;
  });
  graph_capture_detail::captures -= static_cast<int>(gone);
}

void capture_gets_unguarded_work(StreamRef stream) noexcept {
  if (!any_capture()) return;
  const std::optional<CaptureState> state = ask_driver(stream);
  if (!state) return;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  const auto found = all.captures.find(state->id);
  if (found != all.captures.end()) found->second.unguarded = true;
}

bool graph_is_guarded(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  return all.guarded.contains(graph);
}

void graph_embedded(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  try {
    all.embedded.insert(graph);
  } catch (...) {  // its parent is not known: as if something in it had been changed
    all.guarded.clear();
  }
}

void graph_edited(CUgraph graph) noexcept {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  all.guarded.erase(graph);
  if (all.embedded.contains(graph)) all.guarded.clear();
  for (auto& [id, capture] : all.captures) {
    if (capture.graph == graph) capture.unguarded = true;
  }
}

void node_edited() noexcept {
  read_nodes_change();
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
  all.embedded.erase(graph);
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

void abandon_captures_after_fork() noexcept {
  all_records().start_anew();
  graph_capture_detail::captures.store(0);
}

}  // namespace kvshim::preload
