// Release and coming back: swaps under the closed gate, and what is prepared
// and cleaned up outside it.
#include <algorithm>
#include <limits>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

std::vector<ExtentName> DeviceMemory::extents_in(ExtentState state,
                                                 std::uint64_t parked_until) const {
  std::vector<ExtentName> names;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [first, pool] : pools_) {
      for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
        const Extent& extent = it->second;
        if (extent.state != state || pool->pinned(it->first, order_granules(extent.order)))
          continue;
        if (extent.state == ExtentState::kParked && extent.parked_tick > parked_until) continue;
        names.push_back(name_of(*pool, it));
      }
    }
  }
  std::stable_sort(names.begin(), names.end(),
                   [](const ExtentName& a, const ExtentName& b) { return a.written > b.written; });
  return names;
}

bool DeviceMemory::map_as_recorded(Pool& pool, std::uint32_t offset, const Extent& extent) {
  const Piece piece{offset, extent.order};
  CUresult result = CUDA_ERROR_UNKNOWN;
  for (int attempt = 0; attempt < 2; ++attempt) {
    result = extent.present()
                 ? mapper_.map(address_of(pool, offset), extent.order, extent.handle, true)
                 : mapper_.map_zero(address_of(pool, 0), std::span(&piece, 1));
    if (result == CUDA_SUCCESS) return true;
  }
  broken("I2: addresses of pool " + std::to_string(pool.id) +
         " lost their mapping: the driver refused to map again (CUDA error " +
         std::to_string(result) + ")");
  return false;
}

void DeviceMemory::collect_absent_pieces(Pool& pool, const Piece& piece,
                                         const std::vector<std::uint32_t>& changed, bool merge,
                                         std::vector<Piece>* pieces) {
  if (piece.offset >= pool.granules) return;
  const std::uint32_t end = piece.offset + order_granules(piece.order);
  const auto is_changed = [&](std::uint32_t offset) {
    return std::binary_search(changed.begin(), changed.end(), offset);
  };
  auto it = pool.extent_at(piece.offset);
  const bool one_extent = it->first == piece.offset && it->second.order >= piece.order;
  if (one_extent && !is_changed(it->first)) return;
  if (end <= pool.granules && (merge || one_extent)) {
    bool all_absent = true, any_changed = false;
    for (; it != pool.extents.end() && it->first < end; ++it) {
      const bool now = is_changed(it->first);
      any_changed = any_changed || now;
      all_absent = all_absent && (now || !it->second.present());
    }
    if (all_absent) {
      if (any_changed) pieces->push_back(piece);
      return;
    }
  }
  if (piece.order == 0) return;
  const auto half = static_cast<std::uint8_t>(piece.order - 1);
  collect_absent_pieces(pool, {piece.offset, half}, changed, merge, pieces);
  collect_absent_pieces(pool, {piece.offset + order_granules(half), half}, changed, merge, pieces);
}

void DeviceMemory::make_piece_absent(Pool& pool, const Piece& piece, std::uint64_t* forgotten) {
  const std::uint32_t end = piece.offset + order_granules(piece.order);
  const auto first = pool.extents.find(piece.offset);
  const auto last = pool.extents.lower_bound(end);
  mapper_.begin_swap(address_of(pool, piece.offset), order_bytes(piece.order));
  bool ok = mapper_.unmap(address_of(pool, piece.offset), order_bytes(piece.order)) == CUDA_SUCCESS;
  if (ok) {
    ok = mapper_.map_zero(address_of(pool, 0), std::span(&piece, 1)) == CUDA_SUCCESS;
    if (!ok) {
      for (auto it = first; it != last; ++it) map_as_recorded(pool, it->first, it->second);
    }
  }
  mapper_.end_swap();
  if (!ok) return;
  for (auto it = first; it != last; ++it) {
    const Extent& extent = it->second;
    if (!extent.present()) continue;
    const bool host = extent.state == ExtentState::kParked;
    retired_.push_back({extent.order, extent.handle, host});
    *forgotten += order_bytes(extent.order);
  }
  pool.extents.erase(first, last);
  pool.extents.emplace(piece.offset, Extent{.order = piece.order});
}

void DeviceMemory::unmap_retired_staging(std::size_t most) {
  for (; most != 0 && !retired_staging_.empty(); --most) {
    const auto [address, order] = retired_staging_.back();
    retired_staging_.pop_back();
    leave_staging(return_staging_, address, order_bytes(order));
  }
}

// A slot that could not be unmapped is never used again: it would be mapped twice.
void DeviceMemory::leave_staging(Staging& staging, CUdeviceptr address, std::uint64_t bytes) {
  if (mapper_.unmap(address, bytes) == CUDA_SUCCESS ||
      mapper_.unmap(address, bytes) == CUDA_SUCCESS) {
    staging.give_back(address);
  }
}

std::uint64_t DeviceMemory::swap_to_absent(std::span<const ExtentName> extents,
                                           ProofOfAbsence proof) {
  std::lock_guard lock(mutex_);
  std::map<std::pair<Pool*, std::uint32_t>, std::vector<std::uint32_t>> by_block;
  for (const ExtentName& name : extents) {
    Pool* pool = nullptr;
    Extent* extent = named_extent(name, ExtentState::kResident, &pool);
    if (extent == nullptr) extent = named_extent(name, ExtentState::kParked, &pool);
    if (extent == nullptr || pool->pinned(name.offset, order_granules(name.order))) continue;
    const bool tail = name.offset + order_granules(name.order) == pool->granules;
    if (tail && proof == ProofOfAbsence::kDroppedByRule) continue;
    const std::uint32_t block = name.offset / order_granules(kMaxOrder) * order_granules(kMaxOrder);
    by_block[{pool, block}].push_back(name.offset);
  }
  std::uint64_t forgotten = 0;
  for (auto& [key, changed] : by_block) {
    Pool& pool = *key.first;
    std::sort(changed.begin(), changed.end());
    const Piece block{key.second, static_cast<std::uint8_t>(kMaxOrder)};
    std::vector<Piece> pieces;
    collect_absent_pieces(pool, block, changed, !near_front(pool, block), &pieces);
    for (const Piece& piece : pieces) {
      const std::uint64_t before = forgotten;
      make_piece_absent(pool, piece, &forgotten);
      auto& counter = proof == ProofOfAbsence::kZero ? statistics_.released_zero_bytes
                                                     : statistics_.dropped_bytes;
      counter.fetch_add(forgotten - before, std::memory_order_relaxed);
    }
  }
  // Idleness resets read-ahead; the fronts themselves stay.
  for (Group& group : groups_) group.fronts.reset_sequences();
  check("release");
  return forgotten;
}

// A handle's release costs 18 to 200 us, an unmap 40: a few at a time under the lock, so
// that a fault never waits for a whole release.
bool DeviceMemory::release_some_retired() {
  constexpr std::size_t kBatch = 2;
  let_guards_first();
  std::lock_guard lock(mutex_);
  unmap_retired_staging(kBatch);
  for (std::size_t i = 0; i < kBatch && !retired_.empty(); ++i) {
    const Retired r = retired_.back();
    retired_.pop_back();
    if (r.host) {
      host_.give_back(r.order, r.handle);
    } else {
      mapper_.release_device(r.order, r.handle);
      room_.look_again();
    }
  }
  if (pools_.empty()) host_.trim(0);
  return !retired_.empty() || !retired_staging_.empty();
}

std::vector<AbiRun> DeviceMemory::present_runs(CUdeviceptr address, std::size_t bytes) const {
  std::vector<AbiRun> present;
  const std::vector<AbiRun> runs = granule_runs(address, bytes);
  if (runs.empty()) return present;
  std::lock_guard lock(mutex_);
  Pool* pool = pool_of_granule(runs[0].first);
  if (pool == nullptr) return present;
  const std::uint32_t begin = runs[0].first - pool->first;
  const std::uint32_t end = std::min(begin + runs[0].count, pool->granules);
  for (auto it = pool->extent_at(begin); it != pool->extents.end() && it->first < end; ++it) {
    if (!it->second.present()) continue;
    const std::uint32_t from = std::max(it->first, begin);
    const std::uint32_t to = std::min(it->first + order_granules(it->second.order), end);
    present.push_back({pool->first + from, to - from});
  }
  return present;
}

std::uint64_t DeviceMemory::oldest_parked_tick() const {
  std::lock_guard lock(mutex_);
  std::uint64_t oldest = std::numeric_limits<std::uint64_t>::max();
  for (const auto& [first, pool] : pools_) {
    for (const auto& [offset, extent] : pool->extents) {
      if (extent.state == ExtentState::kParked) oldest = std::min(oldest, extent.parked_tick);
    }
  }
  return oldest;
}

}  // namespace kvshim::vmm
