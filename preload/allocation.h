// What the allocation hooks leave to housekeeping.
#pragma once

#include <cstdint>

namespace kvshim::preload {

/// Bytes of managed memory ever allocated (counted only).
std::uint64_t managed_bytes() noexcept;

}  // namespace kvshim::preload
