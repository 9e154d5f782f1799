// Pools are open to their own GPU only. A program that gives another GPU access to
// one that has pools is told so, whichever comes first.
#pragma once

#include <cuda.h>

#include "vmm/device_memory.h"

namespace kvshim::preload {

/// Another context was given access to the memory of `peer`'s GPU. Any thread.
void peer_access_enabled(CUcontext peer) noexcept;

/// A GPU gets its first pool. Any thread; logs nothing itself.
void pools_beside_peers(vmm::DeviceMemory& memory) noexcept;

}  // namespace kvshim::preload
