// Captures, and the end of streams.
#include "preload/gate.h"
#include "preload/graph_capture.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

namespace {

CUresult begin_capture(StreamRef stream, bool into_existing, SubmitRef submit) noexcept {
  before_capture(stream);
  const CUresult result = submit();
  if (result == CUDA_SUCCESS) capture_began(stream, into_existing);
  return result;
}

CUresult end_capture(StreamRef stream, CUgraph* graph, SubmitRef submit) noexcept {
  const CUresult result = submit();
  capture_ended(stream, result, graph != nullptr ? *graph : nullptr);
  after_capture(stream);
  return result;
}

CUresult destroy(CUstream stream, SubmitRef submit) noexcept {
  before_stream_destroy(stream);
  const CUresult result = submit();
  if (result == CUDA_SUCCESS) stream_gone(stream);
  return result;
}

// Guards are nodes in front of their work: a node captured next may then run beside
// what came before it.
CUresult update_dependencies(StreamRef stream, unsigned int flags, SubmitRef submit) noexcept {
  if ((flags & CU_STREAM_SET_CAPTURE_DEPENDENCIES) != 0) capture_gets_unguarded_work(stream);
  return submit();
}

}  // namespace

CUresult hook_cuStreamUpdateCaptureDependencies(CUstream stream, CUgraphNode* nodes, size_t count,
                                                unsigned int flags) noexcept {
  return update_dependencies({stream, StreamFlavor::kLegacy}, flags, [&] {
    return real().cuStreamUpdateCaptureDependencies(stream, nodes, count, flags);
  });
}

CUresult hook_cuStreamUpdateCaptureDependencies_ptsz(CUstream stream, CUgraphNode* nodes,
                                                     size_t count, unsigned int flags) noexcept {
  return update_dependencies({stream, StreamFlavor::kPerThread}, flags, [&] {
    return real().cuStreamUpdateCaptureDependencies_ptsz(stream, nodes, count, flags);
  });
}

CUresult hook_cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode* nodes,
                                                   const CUgraphEdgeData* edges, size_t count,
                                                   unsigned int flags) noexcept {
  return update_dependencies({stream, StreamFlavor::kLegacy}, flags, [&] {
    return real().cuStreamUpdateCaptureDependencies_v2(stream, nodes, edges, count, flags);
  });
}

CUresult hook_cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream stream, CUgraphNode* nodes,
                                                        const CUgraphEdgeData* edges, size_t count,
                                                        unsigned int flags) noexcept {
  return update_dependencies({stream, StreamFlavor::kPerThread}, flags, [&] {
    return real().cuStreamUpdateCaptureDependencies_v2_ptsz(stream, nodes, edges, count, flags);
  });
}

CUresult hook_cuStreamBeginCapture(CUstream stream) noexcept {
  return begin_capture({stream, StreamFlavor::kLegacy}, false,
                       [&] { return real().cuStreamBeginCapture(stream); });
}

CUresult hook_cuStreamBeginCapture_ptsz(CUstream stream) noexcept {
  return begin_capture({stream, StreamFlavor::kPerThread}, false,
                       [&] { return real().cuStreamBeginCapture_ptsz(stream); });
}

CUresult hook_cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) noexcept {
  return begin_capture({stream, StreamFlavor::kLegacy}, false,
                       [&] { return real().cuStreamBeginCapture_v2(stream, mode); });
}

CUresult hook_cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) noexcept {
  return begin_capture({stream, StreamFlavor::kPerThread}, false,
                       [&] { return real().cuStreamBeginCapture_v2_ptsz(stream, mode); });
}

CUresult hook_cuStreamBeginCaptureToGraph(CUstream stream, CUgraph graph,
                                          const CUgraphNode* dependencies,
                                          const CUgraphEdgeData* edges, size_t count,
                                          CUstreamCaptureMode mode) noexcept {
  return begin_capture({stream, StreamFlavor::kLegacy}, true, [&] {
    return real().cuStreamBeginCaptureToGraph(stream, graph, dependencies, edges, count, mode);
  });
}

CUresult hook_cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph,
                                               const CUgraphNode* dependencies,
                                               const CUgraphEdgeData* edges, size_t count,
                                               CUstreamCaptureMode mode) noexcept {
  return begin_capture({stream, StreamFlavor::kPerThread}, true, [&] {
    return real().cuStreamBeginCaptureToGraph_ptsz(stream, graph, dependencies, edges, count, mode);
  });
}

CUresult hook_cuStreamEndCapture(CUstream stream, CUgraph* graph) noexcept {
  return end_capture({stream, StreamFlavor::kLegacy}, graph,
                     [&] { return real().cuStreamEndCapture(stream, graph); });
}

CUresult hook_cuStreamEndCapture_ptsz(CUstream stream, CUgraph* graph) noexcept {
  return end_capture({stream, StreamFlavor::kPerThread}, graph,
                     [&] { return real().cuStreamEndCapture_ptsz(stream, graph); });
}

CUresult hook_cuStreamDestroy(CUstream stream) noexcept {
  return destroy(stream, [&] { return real().cuStreamDestroy(stream); });
}

CUresult hook_cuStreamDestroy_v2(CUstream stream) noexcept {
  return destroy(stream, [&] { return real().cuStreamDestroy_v2(stream); });
}

}  // namespace kvshim::preload
