// Waking another process: a 32-bit word in shared memory that changes, and a
// futex on it.
#pragma once

#include <chrono>
#include <cstdint>

#include "segment/cells.h"

namespace kvshim::segment {

/// Changes the word and wakes who waits for that. Some microseconds at most.
void ring_bell(HalfWord& bell) noexcept;
/// Sleeps until the word differs from `seen`, at most `timeout`. May return
/// early.
void wait_bell(HalfWord& bell, std::uint32_t seen, std::chrono::nanoseconds timeout) noexcept;

}  // namespace kvshim::segment
