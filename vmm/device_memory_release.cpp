// Release and coming back: swaps under the closed gate, and what is prepared
// and cleaned up outside it.
#include <algorithm>
#include <limits>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

std::vector<ExtentName> DeviceMemory::extents_in(ExtentState state,
                                                 std::uint64_t parked_until) const {
  struct Found {
    std::uint64_t serial;
    ExtentName name;
  };
  std::vector<Found> found;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [first, pool] : pools_) {
      for (const auto& [offset, extent] : pool->extents) {
        if (extent.state != state || pool->pinned(offset, order_granules(extent.order))) continue;
        if (extent.state == ExtentState::kParked && extent.parked_tick > parked_until) continue;
        found.push_back({extent.written_serial,
                         {pool->id, offset, extent.order, arena_.address(first + offset),
                          offset + order_granules(extent.order) == pool->granules}});
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Found& a, const Found& b) { return a.serial > b.serial; });
  std::vector<ExtentName> names;
  names.reserve(found.size());
  for (const Found& f : found) names.push_back(f.name);
  return names;
}

bool DeviceMemory::prepare_park(const ExtentName& name, PreparedPark* prepared) {
  std::lock_guard lock(mutex_);
  Pool* pool = nullptr;
  if (named_extent(name, ExtentState::kResident, &pool) == nullptr) return false;
  const std::optional<CUdeviceptr> staging = release_staging_.take();
  if (!staging) return false;
  *prepared = {name, 0, *staging};
  if (host_.take(name.order, &prepared->host_handle) == CUDA_SUCCESS) {
    if (mapper_.map(*staging, name.order, prepared->host_handle, true) == CUDA_SUCCESS) return true;
    host_.give_back(name.order, prepared->host_handle);
  }
  release_staging_.give_back(*staging);
  return false;
}

void DeviceMemory::cancel_park(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  leave_staging(release_staging_, prepared.staging, prepared.extent.bytes());
  host_.give_back(prepared.extent.order, prepared.host_handle);
  if (pools_.empty()) host_.trim(0);
}

bool DeviceMemory::map_as_recorded(Pool& pool, std::uint32_t offset, const Extent& extent) {
  const Piece piece{offset, extent.order};
  const CUresult result =
      extent.present()
          ? mapper_.map(address_of(pool, offset), extent.order, extent.handle, true)
          : mapper_.map_zero(address_of(pool, 0), std::span(&piece, 1));
  if (result == CUDA_SUCCESS) return true;
  broken("I2: addresses of pool " + std::to_string(pool.id) +
         " lost their mapping: the driver refused to map again (CUDA error " +
         std::to_string(result) + ")");
  return false;
}

bool DeviceMemory::swap_to_parked(const PreparedPark& prepared, std::uint64_t tick) {
  std::lock_guard lock(mutex_);
  const ExtentName& name = prepared.extent;
  Pool* pool = nullptr;
  Extent* extent = named_extent(name, ExtentState::kResident, &pool);
  if (extent == nullptr || pool->pinned(name.offset, order_granules(name.order))) return false;
  mapper_.begin_swap();
  bool ok = mapper_.unmap(name.address, name.bytes()) == CUDA_SUCCESS;
  if (ok) {
    ok = mapper_.map(name.address, name.order, prepared.host_handle, true) == CUDA_SUCCESS;
    if (!ok) map_as_recorded(*pool, name.offset, *extent);
  }
  mapper_.end_swap();
  if (!ok) return false;
  retired_.push_back({name.order, extent->handle, false});
  retired_staging_.push_back({prepared.staging, name.order});
  extent->state = ExtentState::kParked;
  extent->handle = prepared.host_handle;
  extent->parked_tick = tick;
  statistics_.parked_bytes_total.fetch_add(name.bytes(), std::memory_order_relaxed);
  check("park");
  return true;
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
  mapper_.begin_swap();
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
    leave_staging(release_staging_, address, order_bytes(order));
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

// A handle's release costs 18 to 200 us: a few at a time under the lock, so
// that a fault never waits for a whole release.
void DeviceMemory::release_retired() {
  constexpr std::size_t kBatch = 16;
  for (;;) {
    std::lock_guard lock(mutex_);
    if (retired_.empty() && retired_staging_.empty()) break;
    unmap_retired_staging(kBatch);
    for (std::size_t i = 0; i < kBatch && !retired_.empty(); ++i) {
      const Retired r = retired_.back();
      retired_.pop_back();
      if (r.host) {
        host_.give_back(r.order, r.handle);
      } else {
        mapper_.release_device(r.order, r.handle);
        free_read_at_ = 0;
      }
    }
    if (pools_.empty()) host_.trim(0);
  }
}

bool DeviceMemory::prepare_restore(const ExtentName& name, PreparedPark* prepared) {
  std::lock_guard lock(mutex_);
  Pool* pool = nullptr;
  if (named_extent(name, ExtentState::kParked, &pool) == nullptr) return false;
  if (!gpu_has_room(name.bytes())) return false;
  const std::optional<CUdeviceptr> staging = release_staging_.take();
  if (!staging) return false;
  *prepared = {name, 0, *staging};
  if (mapper_.create_device(name.order, &prepared->host_handle) == CUDA_SUCCESS) {
    if (mapper_.map(*staging, name.order, prepared->host_handle, true) == CUDA_SUCCESS) {
      preparing_device_ += name.bytes();
      return true;
    }
    mapper_.release_device(name.order, prepared->host_handle);
  }
  release_staging_.give_back(*staging);
  return false;
}

void DeviceMemory::cancel_restore(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  leave_staging(release_staging_, prepared.staging, prepared.extent.bytes());
  mapper_.release_device(prepared.extent.order, prepared.host_handle);
  preparing_device_ -= prepared.extent.bytes();
}

bool DeviceMemory::swap_to_resident(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  const ExtentName& name = prepared.extent;
  Pool* pool = nullptr;
  Extent* extent = named_extent(name, ExtentState::kParked, &pool);
  if (extent == nullptr) return false;
  mapper_.begin_swap();
  bool ok = mapper_.unmap(name.address, name.bytes()) == CUDA_SUCCESS;
  if (ok) {
    ok = mapper_.map(name.address, name.order, prepared.host_handle, true) == CUDA_SUCCESS;
    if (!ok) map_as_recorded(*pool, name.offset, *extent);
  }
  mapper_.end_swap();
  if (!ok) return false;
  retired_.push_back({name.order, extent->handle, true});
  retired_staging_.push_back({prepared.staging, name.order});
  preparing_device_ -= name.bytes();
  extent->state = ExtentState::kResident;
  extent->handle = prepared.host_handle;
  statistics_.promotions.fetch_add(1, std::memory_order_relaxed);
  statistics_.promoted_bytes.fetch_add(name.bytes(), std::memory_order_relaxed);
  check("restore");
  return true;
}

// One handle a call, made without the lock (pinning 32 MiB takes about 10 ms).
// As much is wanted as is resident, order by order, so that the next release
// finds what it needs.
bool DeviceMemory::make_slabs_ahead() {
  unsigned order = kOrders;
  {
    std::lock_guard lock(mutex_);
    std::array<std::size_t, kOrders> resident{};
    for (const auto& [first, pool] : pools_) {
      for (const auto& [offset, extent] : pool->extents) {
        if (extent.state == ExtentState::kResident) ++resident[extent.order];
      }
    }
    for (unsigned o = 0; o < kOrders && order == kOrders; ++o) {
      if (host_.wants(o, resident[o])) order = o;
    }
  }
  if (order == kOrders) return false;
  CUmemGenericAllocationHandle handle = 0;
  if (mapper_.create_host_uncounted(order, &handle) != CUDA_SUCCESS) return false;
  std::lock_guard lock(mutex_);
  host_.add_made(order, handle);
  if (pools_.empty()) host_.trim(0);
  return true;
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
