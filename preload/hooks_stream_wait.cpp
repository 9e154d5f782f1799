// Calls by which a stream comes to wait: for another stream, for a host thread, for
// somebody outside. (Words that are awaited: hooks_stream_memory.cpp; graphs:
// graph_exec.cpp; stream-ordered allocations: allocation.cpp.)
#include "preload/gate.h"
#include "preload/graph_capture.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

namespace {

// A stream that waits for an event recorded in a capture joins that capture: the last
// moment at which an event on its executed work can be recorded.
void before_event(StreamRef stream) noexcept {
  if (any_capture()) before_capture(stream);
  before_wait(stream);
}

}  // namespace

CUresult hook_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) noexcept {
  before_event({stream, StreamFlavor::kLegacy});
  return real().cuStreamWaitEvent(stream, event, flags);
}

CUresult hook_cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned int flags) noexcept {
  before_event({stream, StreamFlavor::kPerThread});
  return real().cuStreamWaitEvent_ptsz(stream, event, flags);
}

CUresult hook_cuCtxWaitEvent(CUcontext context, CUevent event) noexcept {
  before_wait(std::nullopt);
  return real().cuCtxWaitEvent(context, event);
}

CUresult hook_cuGreenCtxWaitEvent(CUgreenCtx context, CUevent event) noexcept {
  before_wait(std::nullopt);
  return real().cuGreenCtxWaitEvent(context, event);
}

CUresult hook_cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kLegacy});
  return real().cuLaunchHostFunc(stream, function, data);
}

CUresult hook_cuLaunchHostFunc_ptsz(CUstream stream, CUhostFn function, void* data) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kPerThread});
  return real().cuLaunchHostFunc_ptsz(stream, function, data);
}

CUresult hook_cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void* data,
                                  unsigned int flags) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kLegacy});
  return real().cuStreamAddCallback(stream, callback, data, flags);
}

CUresult hook_cuStreamAddCallback_ptsz(CUstream stream, CUstreamCallback callback, void* data,
                                       unsigned int flags) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kPerThread});
  return real().cuStreamAddCallback_ptsz(stream, callback, data, flags);
}

CUresult hook_cuWaitExternalSemaphoresAsync(const CUexternalSemaphore* semaphores,
                                            const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS* params,
                                            unsigned int count, CUstream stream) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kLegacy});
  return real().cuWaitExternalSemaphoresAsync(semaphores, params, count, stream);
}

CUresult hook_cuWaitExternalSemaphoresAsync_ptsz(const CUexternalSemaphore* semaphores,
                                                 const CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS* params,
                                                 unsigned int count, CUstream stream) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kPerThread});
  return real().cuWaitExternalSemaphoresAsync_ptsz(semaphores, params, count, stream);
}

// Waits for what the graphics library was given before.
CUresult hook_cuGraphicsMapResources(unsigned int count, CUgraphicsResource* resources,
                                     CUstream stream) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kLegacy});
  return real().cuGraphicsMapResources(count, resources, stream);
}

CUresult hook_cuGraphicsMapResources_ptsz(unsigned int count, CUgraphicsResource* resources,
                                          CUstream stream) noexcept {
  before_wait(StreamRef{stream, StreamFlavor::kPerThread});
  return real().cuGraphicsMapResources_ptsz(count, resources, stream);
}

}  // namespace kvshim::preload
