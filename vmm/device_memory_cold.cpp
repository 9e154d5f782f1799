// Which resident extents are still written, or read: the bookkeeping of a clock. What is parked
// for it stays in place and right; only its speed depends on the guess.
#include <algorithm>
#include <utility>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

std::vector<ExtentName> DeviceMemory::watch(std::uint64_t tick) {
  std::lock_guard lock(mutex_);
  std::vector<ExtentName> names;
  for (const auto& [first, pool] : pools_) {
    for (auto it = pool->extents.begin(); it != pool->extents.end(); ++it) {
      Extent& extent = it->second;
      const Piece piece{it->first, extent.order};
      if (extent.state != ExtentState::kResident || extent.watched_tick != 0 ||
          pool->pinned(piece.offset, order_granules(piece.order)) || near_front(*pool, piece)) {
        continue;
      }
      extent.watched_tick = tick;
      names.push_back(name_of(*pool, it));
    }
  }
  check("watch");
  return names;
}

void DeviceMemory::forget_watch(std::span<const ExtentName> extents) {
  std::lock_guard lock(mutex_);
  for (const ExtentName& name : extents) {
    Pool* pool = nullptr;
    Extent* const extent = named_extent(name, ExtentState::kResident, &pool);
    if (extent != nullptr) extent->watched_tick = 0;
  }
}

// Sorted without the lock: a fault must not wait for it.
std::uint64_t DeviceMemory::newest_kept(std::uint64_t keep) const {
  if (keep == 0) return 0;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> present;  // written, bytes
  std::uint64_t all = 0;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [first, pool] : pools_) {
      all += pool->granules * kGranuleBytes;
      for (const auto& [offset, extent] : pool->extents) {
        if (!extent.present()) continue;
        present.emplace_back(extent.written_serial, order_bytes(extent.order));
      }
    }
  }
  std::sort(present.begin(), present.end());
  constexpr std::uint64_t kMostOfPools = 32;
  std::uint64_t left = std::min(keep, all / kMostOfPools), newest = 0;
  for (const auto& [written, bytes] : present) {
    if (bytes > left) break;
    left -= bytes;
    newest = written;
  }
  return newest;
}

std::vector<ExtentName> DeviceMemory::cold_extents(std::uint64_t until, std::uint64_t keep) {
  const std::uint64_t kept = newest_kept(keep);
  std::vector<ExtentName> names;
  std::uint64_t read = 0;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [first, pool] : pools_) {
      for (auto it = pool->extents.begin(); it != pool->extents.end(); ++it) {
        Extent& extent = it->second;
        if (extent.read_tick > until) read += order_bytes(extent.order);
        if (extent.present() && extent.written_serial <= kept) {
          extent.cold = false;
          continue;
        }
        if (extent.watched_tick == 0 || extent.watched_tick > until || extent.read_tick > until) {
          continue;
        }
        if (pool->pinned(it->first, order_granules(extent.order))) continue;
        names.push_back(name_of(*pool, it));
        if (names.back().front) names.pop_back();
      }
    }
    check("cold");
  }
  statistics_.marked_by_readers.store(read, std::memory_order_relaxed);
  std::stable_sort(names.begin(), names.end(),
                   [](const ExtentName& a, const ExtentName& b) { return a.written > b.written; });
  return names;
}

std::uint64_t DeviceMemory::untouched_since(std::uint64_t tick) const {
  std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [first, pool] : pools_) {
    for (const auto& [offset, extent] : pool->extents) {
      if (extent.state == ExtentState::kResident && extent.parked_tick < tick &&
          !pool->pinned(offset, order_granules(extent.order)) &&
          !near_front(*pool, {offset, extent.order})) {
        sum += order_bytes(extent.order);
      }
    }
  }
  return sum;
}

DeviceMemory::ParkedBytes DeviceMemory::parked_bytes() const {
  std::lock_guard lock(mutex_);
  ParkedBytes sum;
  for (const auto& [first, pool] : pools_) {
    for (const auto& [offset, extent] : pool->extents) {
      if (extent.state != ExtentState::kParked) continue;
      (extent.cold ? sum.cold : sum.returnable) += order_bytes(extent.order);
    }
  }
  return sum;
}

void DeviceMemory::cold_becomes_idle(std::uint64_t tick, bool stays_cold) {
  std::lock_guard lock(mutex_);
  for (const auto& [first, pool] : pools_) {
    for (auto& [offset, extent] : pool->extents) {
      if (std::exchange(extent.cold, extent.cold && stays_cold)) extent.parked_tick = tick;
    }
  }
}

}  // namespace kvshim::vmm
