#include "preload/needs.h"

#include <algorithm>
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

bool Needs::ask(segment::Owner& owner, Lack lack, std::uint64_t bytes) noexcept {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  Want& want = wants_[lack == Lack::kRestore ? 0 : 1];
  const bool sequence = want.got && now - want.asked < kSequence;
  if (now >= want.until) {
    want.step = sequence ? std::min(want.step * 2, kMostAsked) : kLeastAsked;
  }
  want.bytes = std::max(bytes, want.step);
  want.asked = now;
  want.until = now + kNeedLives;
  post(owner, now);
  return now >= want.dont_wait_until;
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
  for (const segment::NeighbourNeed& need : owner.needs()) {
    if (served_before(seen(need), ours)) before += need.need.bytes;
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

// mutex_ held. The most urgent kind, all bytes; again only when it is more than what
// stands there, so that who waits keeps his turn.
void Needs::post(segment::Owner& owner, Clock::time_point now) noexcept {
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
  if (posted_.bytes >= bytes && posted_.kind == kind) return;
  owner.post_need(bytes, kind_of(*most));
  posted_ = {bytes, kind, 0, segment::monotonic_ns()};
}

}  // namespace kvshim::preload
