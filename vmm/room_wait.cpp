#include "vmm/room_wait.h"

#include <algorithm>
#include <thread>

namespace kvshim::vmm {

bool wait_for_room(Pressure& pressure, Lack lack, std::uint64_t bytes, const RoomWait& wait,
                   const std::function<bool(std::uint64_t)>& lacking, Statistics& statistics) {
  using Clock = std::chrono::steady_clock;
  if (!pressure.ask(lack, bytes)) return false;
  const auto begin = Clock::now();
  auto end = begin + std::min(wait.patience, wait.longest);
  std::uint64_t given = pressure.answers().bytes;
  bool got = false;
  while (!got && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    got = !lacking(pressure.needed_before_us());
    const Pressure::Answers answers = pressure.answers();
    if (!got && answers.refused_by_all) break;
    if (answers.bytes > given) {
      given = answers.bytes;
      end = std::min(Clock::now() + wait.between, begin + wait.longest);
    }
  }
  pressure.ended(lack, got);
  (got ? statistics.needs_answered : statistics.needs_unanswered)
      .fetch_add(1, std::memory_order_relaxed);
  if (got) statistics.got_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return got;
}

}  // namespace kvshim::vmm
