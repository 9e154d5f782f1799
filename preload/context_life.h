// Whether the shim sees the end of a context.
#pragma once

#include <cuda.h>

namespace kvshim::preload {

/// Before the first pool of a device is made in `context`. The end of a primary
/// context is known by counting its users; when some of them came by a way that the
/// shim doesn't see, it becomes a user itself, so that the context lives until the
/// process ends and its pools with it: true then. Any thread.
bool keep_if_end_is_unseen(CUdevice device, CUcontext context) noexcept;

}  // namespace kvshim::preload
