// Ends a detached thread and waits until it has ended.
#pragma once

#include <atomic>

namespace kvshim::vmm {

class StopFlag {
 public:
  void thread_starts() noexcept { running_.store(true); }
  void thread_ended() noexcept {
    running_.store(false);
    running_.notify_all();
  }
  bool requested() const noexcept { return requested_.load(std::memory_order_relaxed); }
  void request() noexcept { requested_.store(true); }
  /// Returns at once when the thread never started or has ended.
  void request_and_wait() noexcept {
    request();
    running_.wait(true);
  }

 private:
  std::atomic<bool> requested_{false};
  std::atomic<bool> running_{false};
};

}  // namespace kvshim::vmm
