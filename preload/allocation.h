// What the allocation hooks leave to housekeeping.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace kvshim::preload {

/// An allocation of the engine's own that is made otherwise than by cuMemAlloc, on the
/// current context's device: refused beyond the limit, and pools give way when it finds no
/// memory. Who calls counts it.
CUresult allocate_beside_pools(std::size_t bytes, const std::function<CUresult()>& allocate);

/// Frees pools whose cuMemFreeAsync the GPU has reached. Called by the status
/// thread; REQUIRES: relaxed capture mode. Queries only.
void finish_deferred_frees() noexcept;

/// Bytes of managed memory ever allocated (counted only).
std::uint64_t managed_bytes() noexcept;

}  // namespace kvshim::preload
