#include "preload/group_quota.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "preload/graph_capture.h"
#include "preload/membership.h"
#include "preload/plain_memory.h"
#include "preload/runtime.h"

namespace kvshim::preload {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Whoever works may grow by so much before it is looked again.
constexpr std::uint64_t kHeadroom = std::uint64_t{256} << 20;
constexpr std::uint64_t kActiveMs = 500;
constexpr milliseconds kQuotaPatience{1000};
// An admitted allocation is counted only after the driver has made it.
constexpr milliseconds kAdmittedFor{300};

struct Division {
  std::atomic<std::uint64_t> share{0};      // in force; 0: no limit of a group
  std::atomic<std::uint64_t> own_limit{0};  // the process's own; 0: none
  std::atomic<std::uint64_t> pages{0};      // zero pages of its pools
  std::mutex mutex;
  std::vector<segment::GroupLimit> limits;  // under mutex
  std::uint64_t admitted = 0;               // under mutex
  Clock::time_point admitted_until{};       // under mutex
};
// Leaked: hooks run until the very end.
std::atomic<std::array<Division, kMostDevices>*>& divisions() {
  static std::atomic<std::array<Division, kMostDevices>*> all{
      new std::array<Division, kMostDevices>};
  return all;
}

Division* division(CUdevice index) {
  const auto i = static_cast<std::size_t>(index);
  return index >= 0 && i < kMostDevices ? &(*divisions().load())[i] : nullptr;
}

// `fixed`: what can't be released, zero pages included. A wish is for memory that can't be in
// the host: it goes before what pools hold.
QuotaMember member(const segment::Figures& figures, std::uint64_t held, std::uint64_t fixed,
                   std::uint64_t reserve, std::uint64_t wanted) {
  QuotaMember one;
  one.floor = std::max({fixed, wanted, std::min(reserve, held)});
  one.demand = std::max(held, one.floor);
  if (figures.idle_ms < kActiveMs && figures.pools != 0) {
    one.demand = std::max(one.demand, held + std::max(held / 2, kHeadroom));
  }
  return one;
}

}  // namespace

std::uint64_t fair_share(std::uint64_t limit, std::span<const QuotaMember> members,
                         std::size_t index) noexcept {
  const auto at = [](const QuotaMember& one, std::uint64_t level) {
    return std::clamp(level, one.floor, std::max(one.floor, one.demand));
  };
  const auto sum_at = [&](std::uint64_t level) {
    std::uint64_t sum = 0;
    for (const QuotaMember& one : members) sum += std::min(at(one, level), limit + 1);
    return sum;
  };
  // The highest level at which all shares together fit.
  std::uint64_t fits = 0, too_high = limit + 1;
  while (too_high - fits > 1) {
    const std::uint64_t middle = fits + (too_high - fits) / 2;
    (sum_at(middle) <= limit ? fits : too_high) = middle;
  }
  const std::uint64_t sum = sum_at(fits);
  const std::uint64_t over = sum < limit ? (limit - sum) / members.size() : 0;
  return at(members[index], fits) + over;
}

std::uint64_t divide_group_quota(segment::Owner& owner, CUdevice index, DeviceRuntime* device,
                                 const std::vector<segment::Control>& groups) {
  Division* const ours = division(index);
  if (ours == nullptr) return 0;
  std::vector<segment::GroupLimit> limits;
  for (const segment::Control& group : groups) {
    if (group.limit != 0) limits.push_back({group.group.str(), group.limit});
  }
  std::uint64_t admitted = 0;
  {
    std::lock_guard lock(ours->mutex);
    ours->limits = limits;
    if (Clock::now() < ours->admitted_until) admitted = ours->admitted;
  }
  const std::uint64_t before = ours->share.load();
  if (limits.empty()) {
    if (before != 0) owner.lower_quota(0);
    ours->share.store(0);
    return 0;
  }
  ours->own_limit.store(owner.control().limit);
  const std::uint64_t other = std::max(plain_bytes(index), admitted);
  std::uint64_t held = other, fixed = other, reserve = 0;
  if (device != nullptr) {
    const vmm::PhysicalBytes physical = device->memory.physical();
    held += physical.device + physical.zero;
    fixed += physical.zero;
    reserve = device->memory.limits().reserve.load();
  }
  ours->pages.store(fixed - other);
  const QuotaMember self = member(owner.own_figures(), held, fixed, reserve, 0);
  const std::vector<segment::NeighbourState> others = owner.states();
  std::uint64_t target = UINT64_MAX;
  for (const segment::GroupLimit& limit : limits) {
    std::vector<QuotaMember> members{self};
    for (const segment::NeighbourState& state : others) {
      if (limit.name != "*" && state.group.str() != limit.name) continue;
      const segment::Figures& f = state.figures;
      const std::uint64_t pages = f.device_cached + f.other_bytes;
      members.push_back(
          member(f, f.resident + pages, pages, state.settings.reserve, state.quota_wanted));
    }
    target = std::min(target, fair_share(limit.bytes, members, 0));
  }
  std::uint64_t share = target;
  // Less holds at once; more as soon as the others have come down. Until then what is held
  // may stay, up to the share.
  if (before == 0 || target > before) {
    share = std::min(target, std::max(owner.raise_quota(target, limits), held));
  }
  share = std::max<std::uint64_t>(share, 1);
  ours->share.store(share);
  // Pools have gone by the same or less since the last pass: nothing grows beyond this.
  if (before != 0 && before <= share) owner.lower_quota(std::max(share, held));
  return share;
}

bool group_quota_in_force(CUdevice index) noexcept {
  const Division* const ours = division(index);
  return ours != nullptr && ours->share.load(std::memory_order_relaxed) != 0;
}

bool group_quota_admits(CUdevice index, std::uint64_t total) noexcept {
  Division* const ours = division(index);
  segment::Owner* const owner = membership_of(index);
  if (ours == nullptr || owner == nullptr) return true;
  const std::uint64_t own_limit = ours->own_limit.load();
  if (own_limit != 0 && total > own_limit) return false;
  total += ours->pages.load();
  if (total <= ours->share.load()) return true;
  try {
    std::vector<segment::GroupLimit> limits;
    {
      std::lock_guard lock(ours->mutex);
      limits = ours->limits;
    }
    for (const segment::GroupLimit& limit : limits) {
      if (total > limit.bytes) return false;  // whoever gives
    }
    owner->want_quota(total);
    const auto end = Clock::now() + kQuotaPatience;
    bool got = owner->raise_quota(total, limits) >= total;
    while (!got && Clock::now() < end && !any_capture()) {
      std::this_thread::sleep_for(milliseconds(1));
      got = owner->raise_quota(total, limits) >= total;
    }
    owner->want_quota(0);
    if (got) {
      std::lock_guard lock(ours->mutex);
      ours->admitted = total - ours->pages.load();
      ours->admitted_until = Clock::now() + kAdmittedFor;
    }
    return got;
  } catch (...) {  // no memory to ask with
    return false;
  }
}

void forget_group_quota_after_fork() noexcept {
  if (auto* const fresh = new (std::nothrow) std::array<Division, kMostDevices>) {
    divisions().store(fresh);
  }
}

}  // namespace kvshim::preload
