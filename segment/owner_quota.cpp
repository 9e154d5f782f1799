// How members of a group divide its limit. Each raises its own quota, one at a time under a
// lock among processes, by what nobody else's takes: so the sum never exceeds the limit.
// Who asks for how much is decided elsewhere (preload/group_quota.h).
#include <algorithm>

#include "segment/bell.h"
#include "segment/file_lock.h"
#include "segment/layout.h"
#include "segment/owner.h"

namespace kvshim::segment {
namespace {

struct Charged {
  std::string group;
  bool group_known = false;
  std::uint64_t bytes = 0;
};

std::uint64_t sum(std::uint64_t a, std::uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }

// What a living neighbour counts for: also one whose sections are half written.
Charged charged(const Record& record, std::size_t index, std::uint64_t claim) {
  Charged one;
  one.bytes = record.quota.load(std::memory_order_acquire);
  Figures figures;
  if (read_whole(record.figures, &figures)) {
    one.bytes =
        std::max(one.bytes, sum(sum(figures.resident, figures.device_cached), figures.other_bytes));
  }
  Control control;
  std::uint64_t generation = 0;
  one.group_known = read_whole(record.control, record_place(index, claim), &control, &generation);
  if (one.group_known) one.group = control.group.str();
  return one;
}

}  // namespace

std::uint64_t Owner::quota() const noexcept {
  const Record* record = own();
  return record != nullptr ? record->quota.load(std::memory_order_acquire) : 0;
}

std::uint64_t Owner::raise_quota(std::uint64_t wanted, const std::vector<GroupLimit>& limits) {
  std::lock_guard lock(mutex_);
  Record* record = own();
  if (record == nullptr) return 0;
  const std::uint64_t now = record->quota.load(std::memory_order_acquire);
  if (wanted <= now) return now;
  const int file = descriptor_.load();
  const HeldLock dividing(file, kQuotaLock, std::chrono::milliseconds(0));
  if (!dividing) return now;
  std::vector<std::uint64_t> left;
  for (const GroupLimit& limit : limits) left.push_back(limit.bytes);
  for (std::size_t i = 0; i < kRecords; ++i) {
    const Record& other = segment_->records[i].record;
    const std::uint64_t claim = other.claim.load(std::memory_order_acquire);
    if (i == index_.load() || claim == 0 || !locked_by_other(file, record_lock(i))) continue;
    const Charged one = charged(other, i, claim);
    for (std::size_t g = 0; g < limits.size(); ++g) {
      const bool member = limits[g].name == "*" || !one.group_known || one.group == limits[g].name;
      if (member) left[g] -= std::min(left[g], one.bytes);
    }
  }
  for (const std::uint64_t bytes : left) wanted = std::min(wanted, bytes);
  if (wanted <= now) return now;
  record->quota.store(wanted, std::memory_order_release);
  return wanted;
}

void Owner::lower_quota(std::uint64_t bytes) noexcept {
  std::lock_guard lock(mutex_);
  Record* record = own();
  if (record != nullptr && record->quota.load(std::memory_order_acquire) > bytes) {
    record->quota.store(bytes, std::memory_order_release);
  }
}

void Owner::want_quota(std::uint64_t bytes) noexcept {
  std::lock_guard lock(mutex_);
  Record* record = own();
  if (record == nullptr || record->quota_wanted.exchange(bytes) == bytes || bytes == 0) return;
  for (std::size_t i = 0; i < kRecords; ++i) {
    Record& other = segment_->records[i].record;
    if (i != index_.load() && other.claim.load() != 0) ring_bell(other.bell);
  }
}

Figures Owner::own_figures() const {
  std::lock_guard lock(mutex_);
  return figures_;
}

}  // namespace kvshim::segment
