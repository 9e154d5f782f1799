// Where time goes.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

namespace kvshim::vmm {

inline std::uint64_t whole_microseconds(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

/// Of the monotonic clock.
inline std::uint64_t steady_microseconds() {
  return whole_microseconds(std::chrono::steady_clock::now().time_since_epoch());
}

/// Of one thread.
class Stopwatch {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Stopwatch(Clock::time_point begin = Clock::now()) : begin_(begin) {}
  /// Since it began, or since the last lap.
  Clock::duration elapsed() const { return Clock::now() - begin_; }
  /// Adds what has elapsed and begins anew.
  void lap_into(Clock::duration* sum) {
    const auto before = std::exchange(begin_, Clock::now());
    *sum += begin_ - before;
  }

 private:
  Clock::time_point begin_;
};

}  // namespace kvshim::vmm
