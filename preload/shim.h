// The shim's state in this process: inert until the first successful cuInit.
#pragma once

#include <cuda.h>

#include <atomic>

namespace kvshim::preload {

namespace shim_detail {
extern std::atomic<bool> active;
}

/// Whether the shim takes part in this process. False before the first
/// successful cuInit, after fork in the child, and when disabled: hooks then
/// forward untouched. Any thread; one relaxed load.
inline bool shim_active() noexcept { return shim_detail::active.load(std::memory_order_relaxed); }

/// Called by the cuInit hook with the real function's result; the first
/// CUDA_SUCCESS reads the configuration and activates the shim. Idempotent,
/// thread-safe, never throws, never blocks for long (reads one file).
void shim_after_cuinit(CUresult result) noexcept;

}  // namespace kvshim::preload
