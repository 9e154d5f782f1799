// How much host memory parked contents may take.
#pragma once

#include <cstdint>

namespace kvshim::preload {

/// A quarter of MemAvailable, at most half of what this process's control
/// group (v2 or v1) leaves, in bytes; 0 when /proc can't be read. Reads files.
std::uint64_t automatic_host_budget() noexcept;

}  // namespace kvshim::preload
