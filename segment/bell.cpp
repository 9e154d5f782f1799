#include "segment/bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace kvshim::segment {
namespace {

long futex(HalfWord& word, int operation, std::uint32_t value, const timespec* timeout) noexcept {
  static_assert(sizeof(HalfWord) == 4);
  // Not FUTEX_PRIVATE_FLAG: the kernel finds waiters by file and offset.
  return syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

}  // namespace

void ring_bell(HalfWord& bell) noexcept {
  bell.fetch_add(1, std::memory_order_release);
  futex(bell, FUTEX_WAKE, INT_MAX, nullptr);
}

void wait_bell(HalfWord& bell, std::uint32_t seen, std::chrono::nanoseconds timeout) noexcept {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  timespec limit{};
  limit.tv_sec = static_cast<time_t>(seconds.count());
  limit.tv_nsec = static_cast<long>((timeout - seconds).count());
  futex(bell, FUTEX_WAIT, seen, &limit);  // relative, CLOCK_MONOTONIC
}

}  // namespace kvshim::segment
