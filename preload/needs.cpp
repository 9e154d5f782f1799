#include "preload/needs.h"

#include <algorithm>
#include <new>
#include <optional>

#include "preload/answer_words.h"
#include "segment/layout.h"

namespace kvshim::preload {
namespace {

using std::chrono::milliseconds;
using vmm::Lack;

constexpr milliseconds kSequence{1000};
// A need without a new shortage is none any more.
constexpr milliseconds kNeedLives{300};

NeedSeen::Kind kind_of(segment::NeedKind kind) {
  switch (kind) {
    case segment::NeedKind::kRestore:
      return NeedSeen::Kind::kRestore;
    case segment::NeedKind::kPlain:
      return NeedSeen::Kind::kPlain;
    case segment::NeedKind::kFault:
    case segment::NeedKind::kNone:
      break;
  }
  return NeedSeen::Kind::kFault;
}

segment::NeedKind kind_of(Lack lack) {
  switch (lack) {
    case Lack::kRestore:
      return segment::NeedKind::kRestore;
    case Lack::kPlain:
      return segment::NeedKind::kPlain;
    case Lack::kFault:
      break;
  }
  return segment::NeedKind::kFault;
}

}  // namespace

NeedSeen seen(const segment::NeighbourNeed& need) {
  return {need.need.bytes, kind_of(need.need.kind), need.priority, need.need.posted_ns};
}

// mutex_ held.
void Needs::grow(Want* want, Clock::time_point now) noexcept {
  const bool sequence = want->got && now - want->asked < kSequence;
  if (!sequence) {
    want->step = kLeastAsked;
  } else if (now - want->asked < kQuick || now >= want->until) {
    want->step = std::min(want->step * 2, kMostAsked);
  }
}

bool Needs::ask(segment::Owner& owner, Lack lack, std::uint64_t bytes) noexcept {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  Want& want = wants_[lack == Lack::kRestore ? 0 : 1];
  const bool quick = want.got && now - want.asked < kQuick;
  if (want.got || now >= want.until) grow(&want, now);
  want.bytes = std::max(bytes, quick ? std::min(bytes + want.step, kMostAsked) : want.step);
  if (lack != Lack::kRestore) say_ahead(quick ? want.step : 0, now);
  const Again again = want.got || now >= want.until ? Again::kAsNew : Again::kAsBefore;
  want.asked = now;
  want.until = now + kNeedLives;
  want.got = false;
  post(owner, now, again);
  return now >= want.dont_wait_until;
}

void Needs::say_ahead(std::uint64_t bytes, Clock::time_point now) noexcept {
  ahead_.store(bytes, std::memory_order_relaxed);
  ahead_until_.store((now + 2 * kQuick).time_since_epoch().count(), std::memory_order_relaxed);
}

// Half of it: what neighbours give comes in pieces that are worth their while.
std::uint64_t Needs::wanted_ahead() const noexcept {
  const std::uint64_t bytes = ahead_.load(std::memory_order_relaxed);
  if (bytes == 0) return 0;
  const Clock::rep now = Clock::now().time_since_epoch().count();
  return now < ahead_until_.load(std::memory_order_relaxed) ? bytes / 2 : 0;
}

void Needs::ask_ahead(segment::Owner& owner, std::uint64_t bytes) noexcept {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  Want& want = wants_[1];
  // While one is being waited for, it stands for all.
  if (!want.got || now - want.asked < kAheadEvery) return;
  if (now - want.asked < kQuick) {
    grow(&want, now);
  } else {
    want.step = std::max(want.step / 2, kLeastAsked);
  }
  want.bytes = std::max(bytes, std::min(bytes + want.step, kMostAsked));
  want.asked = now;
  want.until = now + kNeedLives;
  say_ahead(want.step, now);
  post(owner, now, Again::kAsNew);
}

void Needs::ended(segment::Owner& owner, Lack lack, bool got) noexcept {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  Want& want = wants_[lack == Lack::kRestore ? 0 : 1];
  want.got = got;
  if (got) {
    want.pause = kFirstPause;
    want.dont_wait_until = {};
  } else {
    want.dont_wait_until = now + want.pause;
    want.pause = std::min<Clock::duration>(want.pause * 2, kLongestPause);
  }
  post(owner, now);
}

void Needs::allocation_begins(segment::Owner& owner, std::uint64_t bytes) noexcept {
  std::lock_guard lock(mutex_);
  allocations_ += bytes;
  post(owner, Clock::now());
}

void Needs::allocation_ends(segment::Owner& owner, std::uint64_t bytes) noexcept {
  std::lock_guard lock(mutex_);
  allocations_ -= bytes;
  post(owner, Clock::now());
}

std::uint64_t Needs::of_allocations() const noexcept {
  std::lock_guard lock(mutex_);
  return allocations_;
}

std::uint64_t Needs::before_us(const segment::Owner& owner, std::int64_t priority) const noexcept {
  NeedSeen ours;
  {
    std::lock_guard lock(mutex_);
    ours = posted_;
  }
  ours.priority = priority;
  std::uint64_t before = 0;
  try {
    for (const segment::NeighbourNeed& need : owner.needs()) {
      if (served_before(seen(need), ours)) before += need.need.bytes;
    }
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return before;
}

vmm::Pressure::Answers Needs::answers(const segment::Owner& owner, std::size_t others) noexcept {
  const AnswerWords said(owner.answers().bytes);
  return {said.freed + said.begun, said.refusals >= others};
}

void Needs::refresh(segment::Owner& owner) noexcept {
  std::lock_guard lock(mutex_);
  post(owner, Clock::now());
}

// mutex_ held. The most urgent kind, all bytes. Unless it is asked for again: only when it
// is more than what stands there, so that who waits keeps his turn.
void Needs::post(segment::Owner& owner, Clock::time_point now, Again again) noexcept {
  std::uint64_t bytes = allocations_;
  std::optional<Lack> most;
  for (std::size_t i = 0; i < wants_.size(); ++i) {
    if (now >= wants_[i].until) continue;
    bytes += wants_[i].bytes;
    most = i == 0 ? Lack::kRestore : Lack::kFault;
  }
  if (allocations_ != 0) most = Lack::kPlain;
  if (!most) {
    if (posted_.bytes != 0) owner.clear_need();
    posted_ = {};
    return;
  }
  const NeedSeen::Kind kind = kind_of(kind_of(*most));
  const bool same = posted_.kind == kind && posted_.bytes != 0;
  const bool repeated =
      again == Again::kWhenMore || (again == Again::kAsBefore && now - said_ < kRepeatEvery);
  if (repeated && same && posted_.bytes >= bytes) return;
  // An allocation that waits is older than the rest.
  const bool old =
      same && (again == Again::kAsBefore || (again == Again::kAsNew && allocations_ != 0));
  const std::uint64_t since = old ? posted_.posted_ns : segment::monotonic_ns();
  owner.post_need(bytes, kind_of(*most), since);
  posted_ = {bytes, kind, 0, since};
  said_ = now;
}

}  // namespace kvshim::preload
