// Parking and coming back: the swaps under the closed gate, and the slabs. One call for several
// mappings costs as much as one for each (docs/results/parking.md).
#include <algorithm>
#include <utility>

#include "vmm/device_memory.h"
#include "vmm/park_parts.h"

namespace kvshim::vmm {

bool DeviceMemory::find_block(const ExtentName& name, ExtentState state, Block* block) {
  const auto it = pools_by_id_.find(name.pool);
  if (it == pools_by_id_.end()) return false;
  Pool* const pool = it->second;
  block->pool = pool;
  block->first = block->last = pool->extents.find(name.offset);
  std::uint32_t reached = name.offset;
  const std::uint32_t end = name.offset + order_granules(name.order);
  while (block->last != pool->extents.end() && reached < end &&
         block->last->second.state == state) {
    reached += order_granules(block->last->second.order);
    ++block->last;
  }
  return reached == end && !pool->pinned(name.offset, order_granules(name.order));
}

// One unmap takes any number of mappings, whole ones.
bool DeviceMemory::swap_block(const Block& block, const ExtentName& name,
                              std::span<const PreparedPart> parts) {
  CUdeviceptr at = name.address;
  mapper_.begin_swap(name.address, name.bytes());
  bool ok = mapper_.unmap(name.address, name.bytes()) == CUDA_SUCCESS;
  if (ok) {
    for (const PreparedPart& part : parts) {
      if (&part != parts.data()) kernels_->copy_steps().let_next_go();
      if (part.handle != 0) {
        ok = mapper_.map(at, part.order, part.handle, true) == CUDA_SUCCESS;
      } else {
        const Piece zero{0, part.order};
        ok = mapper_.map_zero(at, std::span(&zero, 1)) == CUDA_SUCCESS;
      }
      if (!ok) break;
      at += order_bytes(part.order);
    }
    const std::uint64_t made = at - name.address;
    if (!ok && made != 0 && mapper_.unmap(name.address, made) != CUDA_SUCCESS) {
      mapper_.unmap(name.address, made);
    }
    for (auto it = block.first; it != block.last && !ok; ++it) {
      map_as_recorded(*block.pool, it->first, it->second);
    }
  }
  mapper_.end_swap();
  return ok;
}

void DeviceMemory::replace_block(const Block& block, const PreparedPark& by, Extent extent) {
  for (auto it = block.first; it != block.last; ++it) {
    retired_.push_back(
        {it->second.order, it->second.handle, it->second.state == ExtentState::kParked});
    extent.written_serial = std::max(extent.written_serial, it->second.written_serial);
    extent.read_tick = std::max(extent.read_tick, it->second.read_tick);
    extent.used_tick = std::max(extent.used_tick, it->second.used_tick);
  }
  block.pool->extents.erase(block.first, block.last);
  std::uint32_t offset = by.extent.offset;
  for (const PreparedPart& part : by.parts) {
    extent.order = part.order;
    extent.handle = part.handle;
    block.pool->extents.emplace(offset, part.handle != 0 ? extent : Extent{.order = part.order});
    offset += order_granules(part.order);
  }
}

// --- parking --------------------------------------------------------------------

// A slab and its window. `in_parts`: the block is of several extents, which can be parked by
// themselves. Pins without the lock: that takes milliseconds, for which a fault must not wait.
Preparation DeviceMemory::take_slab(std::unique_lock<std::mutex>& lock, std::uint8_t order,
                                    bool in_parts, PreparedPart* part) {
  part->order = order;
  if (!host_.take_cached(order, &part->handle)) {
    std::uint64_t smaller = 0;
    for (unsigned below = 0; below < order; ++below) {
      smaller += host_.cached_of(below) * order_bytes(below);
    }
    if (in_parts && smaller >= order_bytes(order)) return Preparation::kNoRoom;
    if (!host_.make_room_for(order)) return Preparation::kNoRoom;
    lock.unlock();
    CUmemGenericAllocationHandle made = 0;
    const CUresult result = mapper_.create_host_uncounted(order, &made);
    lock.lock();
    if (result != CUDA_SUCCESS) return Preparation::kNoRoom;
    host_.add_made(order, made);
    if (!host_.take_cached(order, &part->handle)) return Preparation::kNoRoom;
  }
  part->staging = host_.window(order, part->handle);
  if (part->staging != 0) return Preparation::kDone;
  host_.give_back(order, part->handle);
  return Preparation::kRefused;
}

// After a mapping was lost for good a pool may still be mapped to one of them: kept for ever.
void DeviceMemory::give_back_slabs(const PreparedPark& prepared) {
  if (!broken_.empty()) return;
  for (const PreparedPart& part : prepared.parts) {
    if (part.handle != 0) host_.give_back(part.order, part.handle);
  }
  if (pools_.empty()) host_.trim(0);
}

Preparation DeviceMemory::prepare_park(const ExtentName& name, PreparedPark* prepared) {
  std::unique_lock lock(mutex_);
  Block block;
  if (!find_block(name, ExtentState::kResident, &block)) return Preparation::kChanged;
  const bool single = block.first->second.order == name.order;
  const std::uint8_t order = std::min(name.order, parked_order(groups_[block.pool->group]));
  const std::vector<ParkPart> plan =
      single && name.by_granule
          ? parts_of(name, order)
          : std::vector<ParkPart>(order_granules(name.order) / order_granules(order), {order});
  *prepared = {name, {}};
  const auto give_up = [&](Preparation why) {
    give_back_slabs(*prepared);
    prepared->parts.clear();
    return why;
  };
  for (const ParkPart& each : plan) {
    PreparedPart part{.order = each.order};
    const Preparation taken =
        each.zero ? Preparation::kDone : take_slab(lock, each.order, !single, &part);
    if (taken == Preparation::kNoRoom && !single) return give_up(Preparation::kSplit);
    if (taken != Preparation::kDone) return give_up(taken);
    prepared->parts.push_back(part);
  }
  // The lock may have been let go.
  const bool same = find_block(name, ExtentState::kResident, &block);
  return same ? Preparation::kDone : give_up(Preparation::kChanged);
}

void DeviceMemory::cancel_park(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  give_back_slabs(prepared);
}

bool DeviceMemory::swap_to_parked(const PreparedPark& prepared, std::uint64_t tick) {
  std::lock_guard lock(mutex_);
  const ExtentName& name = prepared.extent;
  Block block;
  if (!find_block(name, ExtentState::kResident, &block) ||
      !swap_out(block, prepared, tick, name.cold)) {
    return false;
  }
  check("park");
  return true;
}

bool DeviceMemory::swap_out(const Block& block, const PreparedPark& prepared, std::uint64_t tick,
                            bool cold) {
  if (!swap_block(block, prepared.extent, prepared.parts)) return false;
  replace_block(block, prepared,
                {.state = ExtentState::kParked, .parked_tick = tick, .cold = cold});
  for (const PreparedPart& part : prepared.parts) host_.window_is_spare(part.handle);
  const std::uint64_t zero = prepared.zero_bytes();
  statistics_.parked_bytes_total.fetch_add(prepared.extent.bytes() - zero,
                                           std::memory_order_relaxed);
  statistics_.released_zero_bytes.fetch_add(zero, std::memory_order_relaxed);
  if (zero != 0) {
    const Piece piece{prepared.extent.offset, prepared.extent.order};
    groups_[block.pool->group].fronts.step_back(piece,
                                                piece.offset + written_granules(prepared.extent));
  }
  return true;
}

// --- coming back ------------------------------------------------------------------

// Not in place: until its copy is done, an address leads to what holds the right
// bytes. (A reader that nobody knows of must be slow, or loud in a hole, never wrong.)
Preparation DeviceMemory::prepare_return(const ExtentName& name, std::uint64_t headroom,
                                         PreparedPark* prepared) {
  std::lock_guard lock(mutex_);
  Block block;
  if (!find_block(name, ExtentState::kParked, &block)) return Preparation::kChanged;
  if (!room_.take(name.bytes())) return Preparation::kNoRoom;
  if (!room_.leaves(headroom)) {
    room_.give_back(name.bytes());
    return Preparation::kNoRoom;
  }
  PreparedPart part;
  if (!make_staged(return_staging_, name.order, &part)) return Preparation::kNoRoom;
  preparing_device_ += name.bytes();
  *prepared = {name, {part}};
  return Preparation::kDone;
}

// GPU memory that lies in a slot of the staging until it replaces an extent.
bool DeviceMemory::make_staged(Staging& staging, std::uint8_t order, PreparedPart* part) {
  const std::optional<CUdeviceptr> slot = staging.take();
  if (!slot) return false;
  *part = {order, 0, *slot};
  if (mapper_.create_device(order, &part->handle) == CUDA_SUCCESS) {
    if (mapper_.map(*slot, order, part->handle, true) == CUDA_SUCCESS) return true;
    mapper_.release_device(order, part->handle);
  }
  staging.give_back(*slot);
  return false;
}

void DeviceMemory::give_back_staged(Staging& staging, const PreparedPart& part) {
  leave_staging(staging, part.staging, order_bytes(part.order));
  mapper_.release_device(part.order, part.handle);
}

void DeviceMemory::give_back_return(const PreparedPark& prepared) {
  for (const PreparedPart& part : prepared.parts) give_back_staged(return_staging_, part);
  preparing_device_ -= prepared.extent.bytes();
}

void DeviceMemory::cancel_return(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  give_back_return(prepared);
}

bool DeviceMemory::swap_to_resident(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  Block block;
  if (!find_block(prepared.extent, ExtentState::kParked, &block) || !swap_in(block, prepared)) {
    return false;
  }
  check("return");
  return true;
}

bool DeviceMemory::swap_in(const Block& block, const PreparedPark& prepared) {
  const std::uint64_t bytes = prepared.extent.bytes();
  if (!swap_block(block, prepared.extent, prepared.parts)) return false;
  for (const PreparedPart& part : prepared.parts) {
    retired_staging_.push_back({part.staging, part.order});
  }
  preparing_device_ -= bytes;
  replace_block(block, prepared, {.state = ExtentState::kResident, .parked_tick = tick_.load()});
  statistics_.promotions.fetch_add(1, std::memory_order_relaxed);
  statistics_.promoted_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return true;
}

// --- slabs ------------------------------------------------------------------------

std::array<std::size_t, kOrders> DeviceMemory::slabs_wanted() const {
  std::vector<ExtentName> blocks;
  std::vector<Extents::const_iterator> resident;
  std::array<std::size_t, kOrders> wanted{};
  for (const auto& [first, pool] : pools_) {
    resident.clear();
    for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
      if (it->second.state == ExtentState::kResident) resident.push_back(it);
    }
    blocks.clear();
    add_blocks(*pool, resident, Direction::kToHost, &blocks);
    const std::uint8_t largest = parked_order(groups_[pool->group]);
    for (const ExtentName& block : blocks) {
      // As if all of it were written. (With zeros between, a small one may be lacking.)
      if (block.next_write) {
        for (const ParkPart& part : parts_of(block, largest)) ++wanted[part.order];
        continue;
      }
      const std::uint8_t order = std::min(block.order, largest);
      wanted[order] += order_granules(block.order) / order_granules(order);
    }
  }
  return wanted;
}

// One slab a call, made without the lock (pinning 32 MiB takes about 10 ms), or a few windows. As
// many of each order are wanted as the next release would use.
bool DeviceMemory::make_slabs_ahead() {
  std::array<std::size_t, kOrders> wanted{};
  unsigned order = kOrders;
  let_guards_first();
  {
    std::lock_guard lock(mutex_);
    wanted = slabs_wanted();
    const bool mapped = host_.map_windows_ahead(wanted);
    check("windows ahead");
    if (mapped) return true;
    order = host_.order_to_make(wanted);
  }
  if (order == kOrders) return false;
  CUmemGenericAllocationHandle handle = 0;
  if (mapper_.create_host_uncounted(order, &handle) != CUDA_SUCCESS) return false;
  std::lock_guard lock(mutex_);
  host_.add_made(order, handle, wanted);
  if (pools_.empty()) host_.trim(0);
  return true;
}

bool DeviceMemory::unmap_spare_windows() {
  constexpr std::size_t kBatch = 4;
  let_guards_first();
  std::lock_guard lock(mutex_);
  const bool more = host_.unmap_spare_windows(kBatch);
  check("spare windows");
  return more;
}

std::uint64_t DeviceMemory::newest_serial() const {
  std::lock_guard lock(mutex_);
  return serial_;
}

}  // namespace kvshim::vmm
