#include "tests/simulator/capture.h"

#include <algorithm>
#include <utility>

namespace kvshim::simulator {
namespace {

thread_local CUstreamCaptureMode interaction = CU_STREAM_CAPTURE_MODE_GLOBAL;

/// Active captures; guarded by the stream mutex.
std::vector<std::shared_ptr<Capture>>& captures() {
  static auto* const instance = new std::vector<std::shared_ptr<Capture>>;
  return *instance;
}

/// Whether `capture` forbids this thread calls that may wait or allocate.
bool forbids_here(const Capture& capture) {
  if (interaction == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  if (capture.mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  if (capture.thread == std::this_thread::get_id()) return true;
  return interaction == CU_STREAM_CAPTURE_MODE_GLOBAL &&
         capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

CUresult refuse_unsafe(const StreamLock&) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : captures()) {
    if (!forbids_here(*capture)) continue;
    capture->invalidated = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

void merge(std::vector<Node*>& into, const std::vector<Node*>& from) {
  for (Node* node : from) {
    if (std::find(into.begin(), into.end(), node) == into.end()) into.push_back(node);
  }
}

void detach(Capture& capture) {
  for (Stream* member : capture.members) {
    member->capture = nullptr;
    member->frontier.clear();
  }
  capture.members.clear();
  capture.ended = true;
}

CUresult begin(CUstream handle, CUstreamCaptureMode mode, std::shared_ptr<Graph> graph,
               std::vector<Node*> dependencies, StreamLock& lock) {
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  static std::uint64_t next_id = 1;
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->id = next_id++;
  capture->into_given_graph = graph != nullptr;
  capture->graph = graph != nullptr ? std::move(graph) : make_graph(lock);
  capture->origin = stream.get();
  capture->members = {stream.get()};
  capture->context = stream->context;
  stream->frontier = std::move(dependencies);
  stream->capture = capture;
  captures().push_back(std::move(capture));
  return CUDA_SUCCESS;
}

/// Nodes of the capture that nothing follows and the origin does not wait for:
/// work of a stream that was never joined back.
bool has_unjoined_work(const Capture& capture) {
  std::vector<const Node*> reached(capture.origin->frontier.begin(),
                                   capture.origin->frontier.end());
  for (std::size_t i = 0; i < reached.size(); ++i) {
    for (const Node* node : reached[i]->dependencies) {
      if (std::find(reached.begin(), reached.end(), node) == reached.end()) reached.push_back(node);
    }
  }
  for (const Stream* member : capture.members) {
    for (const Node* node : member->frontier) {
      if (std::find(reached.begin(), reached.end(), node) == reached.end()) return true;
    }
  }
  return false;
}

CUresult capture_info(CUstream handle, CUstreamCaptureStatus* status, cuuint64_t* id,
                      CUgraph* graph, const CUgraphNode** dependencies,
                      const CUgraphEdgeData** edges, std::size_t* count) {
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (stream->legacy) {
    for (const auto& capture : captures()) {
      if (capture->context == stream->context && capture->origin->blocking()) {
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      }
    }
  }
  const Capture* capture = stream->capture.get();
  if (capture == nullptr) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
  }
  *status =
      capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  if (capture->invalidated) return CUDA_SUCCESS;
  if (id != nullptr) *id = capture->id;
  if (graph != nullptr) *graph = handle_of(capture->graph.get());
  if (dependencies != nullptr) {
    *dependencies = reinterpret_cast<const CUgraphNode*>(stream->frontier.data());
  }
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = stream->frontier.size();
  return CUDA_SUCCESS;
}

CUresult update_dependencies(CUstream handle, const CUgraphNode* dependencies, std::size_t count,
                             unsigned flags) {
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  std::vector<Node*> nodes;
  for (std::size_t i = 0; i < count; ++i) {
    Node* node = find_node(lock, dependencies[i]);
    if (node == nullptr || node->graph != stream->capture->graph.get()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    nodes.push_back(node);
  }
  if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) stream->frontier.clear();
  merge(stream->frontier, nodes);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult check_capture(const Capture& capture) {
  return capture.invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

CUresult capture_operation(StreamLock& lock, Stream& stream, Operation operation) {
  Capture& capture = *stream.capture;
  if (const CUresult dead = check_capture(capture); dead != CUDA_SUCCESS) return dead;
  const CUgraphNodeType type = type_of(operation);
  stream.frontier = {
      add_node(lock, *capture.graph, type, std::move(operation), std::move(stream.frontier))};
  return CUDA_SUCCESS;
}

CUresult join_capture(StreamLock&, Stream& stream, const Event& event) {
  Capture& capture = *event.capture;
  if (capture.ended) return CUDA_ERROR_CAPTURED_EVENT;
  if (const CUresult dead = check_capture(capture); dead != CUDA_SUCCESS) return dead;
  if (stream.legacy) {
    capture.invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.frontier.clear();
    capture.members.push_back(&stream);
  } else if (stream.capture != event.capture) {
    stream.capture->invalidated = true;
    capture.invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_MERGE;
  }
  merge(stream.frontier, event.frontier);
  return CUDA_SUCCESS;
}

CUresult refuse_outside_dependency(StreamLock&, Stream& stream, const Event& event) {
  if (const CUresult dead = check_capture(*stream.capture); dead != CUDA_SUCCESS) return dead;
  if (event.recorded == nullptr) return CUDA_SUCCESS;  // never recorded: nothing to wait for
  stream.capture->invalidated = true;
  return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
}

void leave_capture(StreamLock&, Stream& stream) {
  const auto capture = stream.capture;
  capture->invalidated = true;
  stream.capture = nullptr;
  std::erase(capture->members, &stream);
  if (capture->origin == &stream) {
    detach(*capture);
    std::erase(captures(), capture);
  }
}

CUresult refuse_unsafe_call() {
  const StreamLock lock(stream_mutex());
  return refuse_unsafe(lock);
}

CUresult refuse_stream_wait(StreamLock& lock, Stream& stream) {
  if (stream.capture != nullptr) {
    stream.capture->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  if (stream.legacy) {
    if (const CUresult refused = refuse_legacy_work(lock, stream); refused != CUDA_SUCCESS) {
      return refused;
    }
  }
  return refuse_unsafe(lock);
}

CUresult refuse_event_wait(const StreamLock& lock, const Event& event) {
  if (event.capture != nullptr) {
    event.capture->invalidated = true;
    return CUDA_ERROR_CAPTURED_EVENT;
  }
  return refuse_unsafe(lock);
}

CUresult refuse_context_wait(StreamLock&, Context& context) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : captures()) {
    if (capture->context != &context) continue;
    capture->invalidated = true;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

CUresult refuse_legacy_work(StreamLock&, const Stream& legacy) {
  CUresult result = CUDA_SUCCESS;
  for (const auto& capture : captures()) {
    const bool disturbed = capture->context == legacy.context &&
                           std::any_of(capture->members.begin(), capture->members.end(),
                                       [](const Stream* member) { return member->blocking(); });
    if (!disturbed) continue;
    capture->invalidated = true;
    result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  }
  return result;
}

CUresult api::cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  StreamLock lock(stream_mutex());
  return begin(stream, mode, nullptr, {}, lock);
}

CUresult api::cuStreamBeginCapture(CUstream stream) {
  return api::cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult api::cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph_handle,
                                          const CUgraphNode* dependencies, const CUgraphEdgeData*,
                                          std::size_t count, CUstreamCaptureMode mode) {
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  StreamLock lock(stream_mutex());
  auto graph = find_graph(lock, graph_handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> after;
  for (std::size_t i = 0; i < count; ++i) {
    Node* node = find_node(lock, dependencies[i]);
    if (node == nullptr || node->graph != graph.get()) return CUDA_ERROR_INVALID_VALUE;
    after.push_back(node);
  }
  return begin(stream, mode, std::move(graph), std::move(after), lock);
}

CUresult api::cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *graph = nullptr;
  const auto capture = stream->capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != stream.get()) {
    capture->invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED &&
      capture->thread != std::this_thread::get_id()) {
    detach(*capture);  // it is gone (measured)
    std::erase(captures(), capture);
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  const bool unjoined = has_unjoined_work(*capture);
  detach(*capture);
  std::erase(captures(), capture);
  if (capture->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (unjoined) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  *graph = handle_of(capture->graph.get());
  if (!capture->into_given_graph) publish_graph(lock, capture->graph);
  return CUDA_SUCCESS;
}

CUresult api::cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  return capture_info(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}

CUresult api::cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* status,
                                     cuuint64_t* id) {
  return capture_info(stream, status, id, nullptr, nullptr, nullptr, nullptr);
}

CUresult api::cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies, std::size_t* count) {
  return capture_info(stream, status, id, graph, dependencies, nullptr, count);
}

CUresult api::cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus* status,
                                        cuuint64_t* id, CUgraph* graph,
                                        const CUgraphNode** dependencies,
                                        const CUgraphEdgeData** edges, std::size_t* count) {
  return capture_info(stream, status, id, graph, dependencies, edges, count);
}

CUresult api::cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode* dependencies,
                                                std::size_t count, unsigned flags) {
  return update_dependencies(stream, dependencies, count, flags);
}

CUresult api::cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode* dependencies,
                                                   const CUgraphEdgeData*, std::size_t count,
                                                   unsigned flags) {
  return update_dependencies(stream, dependencies, count, flags);
}

CUresult api::cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::swap(*mode, interaction);
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
