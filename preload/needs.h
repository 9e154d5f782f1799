// What this process needs on one GPU: posted for the neighbours, one need for all that is
// lacking, and what they said to it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "preload/giving.h"
#include "segment/owner.h"
#include "vmm/pressure.h"

namespace kvshim::preload {

/// A neighbour's need, as the rules of giving.h look at it.
NeedSeen seen(const segment::NeighbourNeed& need);

/// Thread-safe; its mutex is held for the moment of posting.
class Needs {
 public:
  /// A restore or a fault lacks `bytes`: asked for is more, so that giving is worth its
  /// while, and more again while a sequence goes on. True: it is worth to wait for it.
  /// Each is a need of its own, for which neighbours give once; asked again before it was
  /// met it keeps its age, and with it its turn.
  bool ask(segment::Owner& owner, vmm::Lack lack, std::uint64_t bytes) noexcept;
  /// When less is free beyond the fault at hand, it is time for ask_ahead(). 0 unless
  /// faults have lacked memory in quick succession, until now.
  std::uint64_t wanted_ahead() const noexcept;
  /// A fault is about to take `bytes`; nobody waits.
  void ask_ahead(segment::Owner& owner, std::uint64_t bytes) noexcept;
  /// The end of such a wait. The need stands a little longer: the next ones will come.
  void ended(segment::Owner& owner, vmm::Lack lack, bool got) noexcept;

  /// An allocation of the engine itself lacks `bytes` until it ends; several add up.
  void allocation_begins(segment::Owner& owner, std::uint64_t bytes) noexcept;
  void allocation_ends(segment::Owner& owner, std::uint64_t bytes) noexcept;
  /// What all of them lack together.
  std::uint64_t of_allocations() const noexcept;

  /// What neighbours need before this process, which has `priority`.
  std::uint64_t before_us(const segment::Owner& owner, std::int64_t priority) const noexcept;
  /// `others`: how many there are that could answer.
  static vmm::Pressure::Answers answers(const segment::Owner& owner, std::size_t others) noexcept;
  /// Takes back what is lacking no more. Every now and then.
  void refresh(segment::Owner& owner) noexcept;

 private:
  using Clock = std::chrono::steady_clock;
  // A need asks for more than one row: twice as much each time in a sequence of faults.
  // What was given beyond the last one is at most kMostAsked.
  static constexpr std::uint64_t kLeastAsked = std::uint64_t{256} << 20;
  static constexpr std::uint64_t kMostAsked = std::uint64_t{2048} << 20;
  // Needs that come so soon after another are a quick sequence.
  static constexpr std::chrono::milliseconds kQuick{50};
  // Saying it rings every neighbour.
  static constexpr std::chrono::milliseconds kAheadEvery{4}, kRepeatEvery{20};
  // A wait in vain is not repeated at once.
  static constexpr std::chrono::milliseconds kFirstPause{100}, kLongestPause{2000};
  struct Want {
    std::uint64_t bytes = 0, step = kLeastAsked;
    Clock::time_point asked{}, until{}, dont_wait_until{};
    Clock::duration pause = kFirstPause;
    bool got = false;
  };
  static void grow(Want* want, Clock::time_point now) noexcept;
  void say_ahead(std::uint64_t bytes, Clock::time_point now) noexcept;
  enum class Again { kWhenMore, kAsNew, kAsBefore };
  void post(segment::Owner& owner, Clock::time_point now, Again again = Again::kWhenMore) noexcept;

  mutable std::mutex mutex_;
  std::array<Want, 2> wants_;  // of restores and faults
  std::uint64_t allocations_ = 0;
  NeedSeen posted_;
  Clock::time_point said_{};             // when it was posted last
  std::atomic<std::uint64_t> ahead_{0};  // of faults
  std::atomic<Clock::rep> ahead_until_{0};
};

}  // namespace kvshim::preload
