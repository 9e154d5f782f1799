#include "vmm/room_wait.h"

#include <algorithm>
#include <string>
#include <thread>

namespace kvshim::vmm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kWorthTelling = std::chrono::milliseconds(2);

const char* name_of(Lack lack) {
  switch (lack) {
    case Lack::kRestore:
      return "a restore";
    case Lack::kFault:
      return "a fault";
    case Lack::kPlain:
      break;
  }
  return "an allocation";
}

// The queue is emptied every now and then: lines of two processes are put in order by the
// clock that they share.
std::string at(Clock::time_point time) {
  using std::chrono::duration_cast;
  return " (at " +
         std::to_string(duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count()) +
         " us)";
}

}  // namespace

bool wait_for_room(Pressure& pressure, Lack lack, std::uint64_t bytes, const RoomWait& wait,
                   const std::function<bool(std::uint64_t)>& lacking, Statistics& statistics,
                   EventQueue& events) {
  if (!pressure.ask(lack, bytes)) return false;
  const auto begin = Clock::now();
  auto end = begin + std::min(wait.patience, wait.longest);
  // Not what is said by now: the first word may have come already.
  std::uint64_t given = 0, told = 0;
  auto heard = begin;
  unsigned answers_seen = 0;
  bool got = false, refused = false;
  while (!got && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    got = !lacking(pressure.needed_before_us());
    const Pressure::Answers answers = pressure.answers();
    refused = !got && answers.refused_by_all;
    if (refused) break;
    const auto now = Clock::now();
    if (answers.bytes > given) {
      ++answers_seen;
      told += answers.bytes - given;
      given = answers.bytes;
      heard = now;
      end = std::min(now + wait.between, begin + wait.longest);
    } else if (!got && answers_seen != 0 && now - heard >= wait.again) {
      pressure.ask(lack, bytes);
      given = pressure.answers().bytes;
      heard = now;
    }
  }
  pressure.ended(lack, got);
  if (const auto took = Clock::now() - begin; took >= kWorthTelling) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
    events.push(EventLevel::kDebug,
                name_of(lack) +
                    (" that lacks " + std::to_string(bytes >> 20) + " MiB waited " +
                     std::to_string(us) + " us for neighbours: ") +
                    std::to_string(answers_seen) + " answers, " + std::to_string(told >> 20) +
                    " MiB, " +
                    (got       ? "there is room"
                     : refused ? "all refused"
                               : "in vain") +
                    at(begin));
  }
  (got ? statistics.needs_answered : statistics.needs_unanswered)
      .fetch_add(1, std::memory_order_relaxed);
  if (got) statistics.got_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return got;
}

}  // namespace kvshim::vmm
