// Ends another thread's sleep early.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>

namespace kvshim::vmm {

/// A futex, because a std::atomic's wait has no time limit and a condition variable
/// needs a lock in the waker. One sleeper; any number of wakers.
class Wakeup {
 public:
  void wake() noexcept {
    rung_.store(1, std::memory_order_release);
    syscall(SYS_futex, &rung_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  /// Whether the next wait_for() returns at once: for a sleeper that does something else.
  bool rung() const noexcept { return rung_.load(std::memory_order_acquire) != 0; }
  /// Sleeps at most `longest`; true: woken (also when that was before the call).
  bool wait_for(std::chrono::nanoseconds longest) noexcept {
    if (rung_.load(std::memory_order_acquire) == 0 && longest.count() > 0) {
      const timespec time{longest.count() / 1'000'000'000, longest.count() % 1'000'000'000};
      syscall(SYS_futex, &rung_, FUTEX_WAIT_PRIVATE, 0, &time, nullptr, 0);
    }
    return rung_.exchange(0, std::memory_order_acquire) != 0;
  }

 private:
  std::atomic<std::uint32_t> rung_{0};
  static_assert(sizeof(std::atomic<std::uint32_t>) == 4);
};

}  // namespace kvshim::vmm
