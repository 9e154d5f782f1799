// A stream that waits for an event recorded in a capture joins that capture: the
// last moment at which an event on its executed work can be recorded.
#include "preload/gate.h"
#include "preload/graph_capture.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

CUresult hook_cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) noexcept {
  if (any_capture()) before_capture({stream, StreamFlavor::kLegacy});
  return real().cuStreamWaitEvent(stream, event, flags);
}

CUresult hook_cuStreamWaitEvent_ptsz(CUstream stream, CUevent event, unsigned int flags) noexcept {
  if (any_capture()) before_capture({stream, StreamFlavor::kPerThread});
  return real().cuStreamWaitEvent_ptsz(stream, event, flags);
}

}  // namespace kvshim::preload
