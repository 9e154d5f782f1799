// Admission of GPU work that may touch pools, against the releasing thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace kvshim::vmm {

/// Submitters enter and leave around their driver calls; the releasing thread
/// closes the gate for a slice. No lock is held across a driver call (I7): a
/// submitter is a count, and the releaser never waits for it, it gives up.
/// Sequential consistency makes enter/close a Dekker pair.
class SubmissionGate {
 public:
  /// Waits while the gate is closed (a slice), then counts as inside.
  void enter() noexcept {
    for (;;) {
      inside_.fetch_add(1);
      if (!closed_.load()) break;
      inside_.fetch_sub(1);
      waiting_.fetch_add(1);
      closed_.wait(true);
      waiting_.fetch_sub(1);
    }
    epoch_.fetch_add(1);
    epoch_.notify_all();  // the fault server sleeps on it; free when nobody does
  }
  void leave() noexcept { inside_.fetch_sub(1); }

  /// Changes with every entry: equal values mean that nothing was submitted.
  std::uint64_t epoch() const noexcept { return epoch_.load(); }
  /// Sleeps until the epoch differs from `seen`.
  void wait_for_entry(std::uint64_t seen) const noexcept { epoch_.wait(seen); }
  bool anyone_inside() const noexcept { return inside_.load() != 0; }
  /// Whether a submitter waits: the holder of the closed gate should open it.
  bool anyone_waiting() const noexcept { return waiting_.load() != 0; }

  /// Closes the gate unless somebody is inside or entered since `epoch`.
  /// One closer at a time (the releasing thread, or a restore inside enter).
  bool try_close(std::uint64_t epoch) noexcept {
    closed_.store(true);
    if (inside_.load() == 0 && epoch_.load() == epoch) return true;
    open();
    return false;
  }
  void open() noexcept {
    closed_.store(false);
    closed_.notify_all();
  }
  /// Opens a closed gate at the end of a scope, whatever is thrown in it.
  class OpenAtEnd {
   public:
    explicit OpenAtEnd(SubmissionGate& gate) : gate_(gate) {}
    ~OpenAtEnd() { gate_.open(); }
    OpenAtEnd(const OpenAtEnd&) = delete;
    OpenAtEnd& operator=(const OpenAtEnd&) = delete;

   private:
    SubmissionGate& gate_;
  };

 private:
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<std::uint32_t> inside_{0};
  std::atomic<std::uint32_t> waiting_{0};
  std::atomic<bool> closed_{false};
};

}  // namespace kvshim::vmm
