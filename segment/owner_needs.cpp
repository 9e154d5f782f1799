// What tools say to this process, and what processes ask of each other.
#include <algorithm>
#include <thread>

#include "segment/bell.h"
#include "segment/file_lock.h"
#include "segment/layout.h"
#include "segment/owner.h"

namespace kvshim::segment {
namespace {

// A waiter must find out by itself that the memory under its word was replaced.
constexpr std::chrono::nanoseconds kLongestSleep = std::chrono::seconds(1);
constexpr std::chrono::nanoseconds kUnsafeSleep = std::chrono::milliseconds(20);

}  // namespace

std::uint64_t Owner::control_generation() const noexcept {
  if (segment_ == nullptr) return 0;
  return segment_->records[index_.load(std::memory_order_relaxed)].record.control.generation();
}

Control Owner::control_locked(std::uint64_t* generation) {
  if (Record* record = own()) {
    Control read;
    std::uint64_t found = 0;
    if (read_whole(record->control, record_place(index_.load(), claim_.load()), &read, &found)) {
      control_ = read;
      control_.priority = std::clamp(control_.priority, -kMostPriority, kMostPriority);
      control_generation_ = found;
    }
  }
  if (generation != nullptr) *generation = control_generation_;
  return control_;
}

Control Owner::control(std::uint64_t* generation) {
  std::lock_guard lock(mutex_);
  return control_locked(generation);
}

std::vector<Control> Owner::group_controls() {
  std::lock_guard lock(mutex_);
  std::vector<Control> controls;
  if (claim_.load() == 0 || !safe()) return controls;
  const std::string own_group = control_.group.str();
  for (std::size_t j = 0; j < kGroups; ++j) {
    Control read;
    std::uint64_t generation = 0;
    const Committed<Control>& cell = segment_->groups[j].control;
    if (cell.generation() == 0 || !read_whole(cell, group_place(j), &read, &generation)) continue;
    const std::string name = read.group.str();
    if (name == "*" || (!own_group.empty() && name == own_group)) controls.push_back(read);
  }
  return controls;
}

std::uint64_t Owner::group_generation() const noexcept {
  if (segment_ == nullptr) return 0;
  std::uint64_t sum = 0;
  for (const Group& group : segment_->groups) sum += group.control.generation();
  return sum;
}

std::uint64_t Owner::post_need(std::uint64_t bytes, NeedKind kind,
                               std::uint64_t since_ns) noexcept {
  std::lock_guard lock(mutex_);
  need_.serial += 1;
  need_.bytes = bytes;
  need_.kind = kind;
  need_.posted_ns = since_ns != 0 ? since_ns : monotonic_ns();
  Record* record = own();
  if (record == nullptr) return need_.serial;
  record->answers.store(0, std::memory_order_relaxed);
  record->answered_bytes.store(0, std::memory_order_relaxed);
  record->need.write(need_);
  for (std::size_t i = 0; i < kRecords; ++i) {
    Record& other = segment_->records[i].record;
    if (i != index_.load() && other.claim.load() != 0) ring_bell(other.bell);
  }
  return need_.serial;
}

void Owner::clear_need() noexcept {
  std::lock_guard lock(mutex_);
  if (need_.bytes == 0) return;
  need_.bytes = 0;
  need_.kind = NeedKind::kNone;
  if (Record* record = own()) record->need.write(need_);
}

Answers Owner::answers() const noexcept {
  const Record* record = own();
  if (record == nullptr) return {};
  return {record->answers.load(std::memory_order_acquire),
          record->answered_bytes.load(std::memory_order_acquire)};
}

std::vector<NeighbourNeed> Owner::needs() const {
  std::lock_guard lock(mutex_);
  std::vector<NeighbourNeed> found;
  if (claim_.load() == 0 || !safe()) return found;
  const int file = descriptor_.load();
  for (std::size_t i = 0; i < kRecords; ++i) {
    const Record& record = segment_->records[i].record;
    NeighbourNeed neighbour;
    neighbour.index = i;
    neighbour.claim = record.claim.load(std::memory_order_acquire);
    if (i == index_.load() || neighbour.claim == 0) continue;
    if (!read_whole(record.need, &neighbour.need) || neighbour.need.bytes == 0) continue;
    Control control;
    std::uint64_t generation = 0;
    if (read_whole(record.control, record_place(i, neighbour.claim), &control, &generation)) {
      neighbour.priority = std::clamp(control.priority, -kMostPriority, kMostPriority);
    }
    neighbour.answers = record.answers.load(std::memory_order_acquire);
    neighbour.answered_bytes = record.answered_bytes.load(std::memory_order_acquire);
    if (!locked_by_other(file, record_lock(i)) ||
        record.claim.load(std::memory_order_acquire) != neighbour.claim) {
      continue;
    }
    found.push_back(neighbour);
  }
  std::sort(found.begin(), found.end(), [](const NeighbourNeed& a, const NeighbourNeed& b) {
    return a.need.posted_ns != b.need.posted_ns ? a.need.posted_ns < b.need.posted_ns
                                                : a.index < b.index;
  });
  return found;
}

std::vector<NeighbourState> Owner::states() const {
  std::lock_guard lock(mutex_);
  std::vector<NeighbourState> found;
  if (claim_.load() == 0 || !safe()) return found;
  for (std::size_t i = 0; i < kRecords; ++i) {
    const Record& record = segment_->records[i].record;
    NeighbourState state;
    state.index = i;
    state.claim = record.claim.load(std::memory_order_acquire);
    if (i == index_.load() || state.claim == 0) continue;
    if (!read_whole(record.figures, &state.figures) ||
        !read_whole(record.settings, &state.settings)) {
      continue;
    }
    Control control;
    std::uint64_t generation = 0;
    if (read_whole(record.control, record_place(i, state.claim), &control, &generation)) {
      state.group = control.group;
    }
    state.quota_wanted = record.quota_wanted.load(std::memory_order_acquire);
    state.held = record.held.load(std::memory_order_acquire);
    if (!locked_by_other(descriptor_.load(), record_lock(i)) ||
        record.claim.load(std::memory_order_acquire) != state.claim) {
      continue;
    }
    found.push_back(state);
  }
  return found;
}

std::size_t Owner::neighbours() const {
  std::lock_guard lock(mutex_);
  if (claim_.load() == 0 || !safe()) return 0;
  std::size_t living = 0;
  for (std::size_t i = 0; i < kRecords; ++i) {
    if (i != index_.load() && segment_->records[i].record.claim.load() != 0 &&
        locked_by_other(descriptor_.load(), record_lock(i))) {
      ++living;
    }
  }
  return living;
}

bool Owner::answer(const NeighbourNeed& need, std::uint64_t freed) noexcept {
  std::lock_guard lock(mutex_);
  if (claim_.load() == 0 || need.index >= kRecords || !safe()) return false;
  Record& record = segment_->records[need.index].record;
  Need now;
  if (record.claim.load() != need.claim || !read_whole(record.need, &now) ||
      now.serial != need.need.serial || now.bytes == 0) {
    return false;
  }
  record.answered_bytes.fetch_add(freed, std::memory_order_release);
  record.answers.fetch_add(1, std::memory_order_release);
  ring_bell(record.bell);
  return true;
}

bool Owner::wait(std::chrono::nanoseconds timeout) noexcept {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
        deadline - std::chrono::steady_clock::now());
    if (!safe()) {  // until the tick has seen to it
      if (left <= std::chrono::nanoseconds(0)) return false;
      std::this_thread::sleep_for(std::min(left, kUnsafeSleep));
      continue;
    }
    HalfWord& bell = segment_->records[index_.load(std::memory_order_relaxed)].record.bell;
    const std::uint32_t now = bell.load(std::memory_order_acquire);
    const std::uint32_t seen = bell_seen_.load(std::memory_order_relaxed);
    if (now != seen) {
      bell_seen_.store(now, std::memory_order_relaxed);
      return true;
    }
    if (left <= std::chrono::nanoseconds(0)) return false;
    wait_bell(bell, seen, std::min(left, kLongestSleep));
  }
}

void Owner::wake() noexcept {
  if (safe()) ring_bell(segment_->records[index_.load(std::memory_order_relaxed)].record.bell);
}

}  // namespace kvshim::segment
