// Promotion: parked extents that a guard asks for are copied by it and then swapped in. Runs
// in the server thread; only calls that return while the GPU is busy are made here.
#include <algorithm>
#include <numeric>

#include "vmm/device_memory.h"
#include "vmm/run_list.h"

namespace kvshim::vmm {

void DeviceMemory::want_promotion(Pool& pool, std::uint32_t offset) {
  const auto it = pool.extent_at(offset);
  Extent& extent = it->second;
  if (extent.state != ExtentState::kParked || pending_.size() == kMaxCopies) return;
  if (moves_.is_being_copied(extent.move)) return;  // served in place
  const bool already = std::any_of(pending_.begin(), pending_.end(), [&](const Pending& p) {
    return p.pool == &pool && p.extent.offset == it->first;
  });
  // The guard copies with one block, tens of GB/s: what would take it longer than
  // a few milliseconds is served in place until the next release and restore.
  const std::uint64_t copied =
      std::accumulate(pending_.begin(), pending_.end(), std::uint64_t{0},
                      [](std::uint64_t sum, const Pending& p) { return sum + p.extent.bytes(); });
  if (already || copied + order_bytes(extent.order) > kMostPromotedAtOnce ||
      !room_.take(order_bytes(extent.order))) {
    return;
  }
  PreparedPart part;
  if (!make_staged(fault_staging_, extent.order, &part)) return;
  moves_.make_void(extent.move);
  extent.move = 0;
  pending_.push_back(
      {&pool, {pool.id, it->first, extent.order, address_of(pool, it->first)}, part});
}

// Nothing else brings back what is pinned (an escaped pool), so none of it is answered in
// place while there is room: its guard asks again when the copies at hand are done.
bool DeviceMemory::moves_later(const AbiRun& granule) {
  Pool* const pool = pool_of_granule(granule.first);
  if (pool == nullptr || granule.count != 1) return false;
  const std::uint32_t offset = granule.first - pool->first;
  const auto it = pool->extent_at(offset);
  return it->second.state == ExtentState::kParked && pool->pinned(offset, 1) &&
         std::none_of(pending_.begin(), pending_.end(), [&](const Pending& p) {
           return p.pool == pool && p.extent.offset == it->first;
         });
}

void DeviceMemory::finish_pending(std::vector<AbiRun>* runs) {
  for (const Pending& p : pending_) {
    const ExtentName& name = p.extent;
    leave_staging(fault_staging_, p.part.staging, name.bytes());
    Pool* pool = nullptr;
    Extent* const parked = named_extent(name, ExtentState::kParked, &pool);
    if (parked == nullptr) {
      // Its guard gave up meanwhile and all work ended, so that it could be
      // restored or dropped: the copy is void.
      mapper_.release_device(name.order, p.part.handle);
      continue;
    }
    Extent& extent = *parked;
    const auto it = pool->extents.find(name.offset);
    if (!swap_block({pool, it, std::next(it)}, name, std::span(&p.part, 1))) {
      mapper_.release_device(name.order, p.part.handle);
      continue;
    }
    host_.give_back(name.order, extent.handle);
    extent.state = ExtentState::kResident;
    extent.handle = p.part.handle;
    note_written(extent);
    statistics_.promotions.fetch_add(1, std::memory_order_relaxed);
    statistics_.promoted_bytes.fetch_add(name.bytes(), std::memory_order_relaxed);
    add_run(runs, pool->first + name.offset, order_granules(name.order));
  }
  pending_.clear();
}

void DeviceMemory::comes_in_no_order(std::uint64_t epoch) {
  std::lock_guard lock(mutex_);
  no_order_epoch_ = std::max(no_order_epoch_, epoch);
}

bool DeviceMemory::all_in_order(std::optional<std::uint64_t> finished_epoch) const {
  std::lock_guard lock(mutex_);
  return parked_may_move(finished_epoch);
}

bool DeviceMemory::parked_may_move(std::optional<std::uint64_t> finished_epoch) const {
  return no_order_epoch_ == 0 || (finished_epoch && *finished_epoch >= no_order_epoch_);
}

// A guard gave up between its copies, or they may have missed a write: they are void.
void DeviceMemory::drop_pending() {
  for (const Pending& p : pending_) give_back_staged(fault_staging_, p.part);
  pending_.clear();
}

}  // namespace kvshim::vmm
