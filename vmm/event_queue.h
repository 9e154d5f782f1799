// Things worth telling that happen under a lock: queued there, told by a
// housekeeping thread outside it (I7: no log sink runs under a lock).
#pragma once

#include <chrono>
#include <deque>
#include <mutex>
#include <string>
#include <utility>

namespace kvshim::vmm {

enum class EventLevel { kDebug, kInfo, kWarning, kError };

struct Event {
  EventLevel level = EventLevel::kInfo;
  std::string text;
  std::chrono::system_clock::time_point when{};
};

/// Bounded: when nobody drains it the oldest are dropped. Thread-safe; its own
/// mutex is a leaf (nothing is called while it is held).
class EventQueue {
 public:
  void push(EventLevel level, std::string text) {
    const auto now = std::chrono::system_clock::now();
    std::lock_guard lock(mutex_);
    if (events_.size() == kCapacity) events_.pop_front();
    events_.push_back({level, std::move(text), now});
  }
  std::deque<Event> drain() {
    std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  static constexpr std::size_t kCapacity = 256;
  std::mutex mutex_;
  std::deque<Event> events_;
};

}  // namespace kvshim::vmm
