// Open file description locks (fcntl(2), F_OFD_SETLK): the kernel drops them
// when the last copy of the descriptor goes, so at the latest when the process
// dies. A mapping counts as a copy, therefore nothing is ever mapped through a
// descriptor that locks.
#pragma once

#include <chrono>
#include <cstdint>

namespace kvshim::segment {

/// Takes the write lock on one byte if nobody has it. False also for a
/// descriptor that is not open, or a file system without such locks.
/// Async-signal-safe.
bool try_lock(int file, std::int64_t at) noexcept;
/// The same, trying for as long as `longest`.
bool lock_within(int file, std::int64_t at, std::chrono::milliseconds longest) noexcept;
void unlock(int file, std::int64_t at) noexcept;
/// Whether another open file description (of whatever process) locks any of the
/// bytes. An error reads as true: nobody is declared dead for want of an answer.
bool locked_by_other(int file, std::int64_t at, std::int64_t bytes = 1) noexcept;

/// A lock for a scope.
class HeldLock {
 public:
  HeldLock(int file, std::int64_t at, std::chrono::milliseconds longest) noexcept
      : file_(file), at_(at), held_(lock_within(file, at, longest)) {}
  ~HeldLock() {
    if (held_) unlock(file_, at_);
  }
  HeldLock(const HeldLock&) = delete;
  HeldLock& operator=(const HeldLock&) = delete;
  explicit operator bool() const noexcept { return held_; }

 private:
  int file_;
  std::int64_t at_;
  bool held_;
};

}  // namespace kvshim::segment
