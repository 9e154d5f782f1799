// What this process needs on one GPU: posted for the neighbours, one need for all that is
// lacking, and what they said to it.
#pragma once

#include <array>
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
  bool ask(segment::Owner& owner, vmm::Lack lack, std::uint64_t bytes) noexcept;
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
  static constexpr std::uint64_t kLeastAsked = std::uint64_t{256} << 20;
  static constexpr std::uint64_t kMostAsked = std::uint64_t{2048} << 20;
  // A wait in vain is not repeated at once.
  static constexpr std::chrono::milliseconds kFirstPause{100}, kLongestPause{2000};
  struct Want {
    std::uint64_t bytes = 0, step = kLeastAsked;
    Clock::time_point asked{}, until{}, dont_wait_until{};
    Clock::duration pause = kFirstPause;
    bool got = false;
  };
  void post(segment::Owner& owner, Clock::time_point now) noexcept;

  mutable std::mutex mutex_;
  std::array<Want, 2> wants_;  // of restores and faults
  std::uint64_t allocations_ = 0;
  NeedSeen posted_;
};

}  // namespace kvshim::preload
