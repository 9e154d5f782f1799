// What the allocation hooks leave to housekeeping.
#pragma once

#include <cstdint>

namespace kvshim::preload {

/// Frees pools whose cuMemFreeAsync the GPU has reached. Called by the status
/// thread; REQUIRES: relaxed capture mode. Queries only.
void finish_deferred_frees() noexcept;

/// Bytes of managed memory ever allocated (counted only).
std::uint64_t managed_bytes() noexcept;

}  // namespace kvshim::preload
