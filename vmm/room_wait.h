// Waiting until neighbours have given what was asked of them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "vmm/event_queue.h"
#include "vmm/pressure.h"
#include "vmm/statistics.h"

namespace kvshim::vmm {

struct RoomWait {
  /// Ends when nobody has begun to give for so long, ...
  std::chrono::nanoseconds patience = std::chrono::milliseconds(20);
  /// when those who have begun have given nothing more for so long, ...
  std::chrono::nanoseconds between = std::chrono::milliseconds(250);
  /// and after so long in any case.
  std::chrono::nanoseconds longest = std::chrono::seconds(1);
  /// When they have given nothing more for so long, but room is lacking still, it is asked
  /// for again: others may have taken what was given.
  std::chrono::nanoseconds again = std::chrono::milliseconds(20);
};

/// Asks for `bytes` and waits while `lacking` (told how many free bytes are somebody
/// else's; no locks are held) holds and it is worth it. Counts, and tells of waits over 2 ms
/// at debug level. True: there is room.
bool wait_for_room(Pressure& pressure, Lack lack, std::uint64_t bytes, const RoomWait& wait,
                   const std::function<bool(std::uint64_t)>& lacking, Statistics& statistics,
                   EventQueue& events);

}  // namespace kvshim::vmm
