// In which blocks extents move: adjacent ones become one, since a mapping of GPU memory costs the
// driver the same whatever its size (facts: 38 us to map and open, 25 to unmap).
#include <algorithm>
#include <utility>

#include "vmm/device_memory.h"

namespace kvshim::vmm {
namespace {

// A parked extent that is written is copied as a whole by the guard, and so are its
// siblings; a fault copies at most kMostPromotedAtOnce, and what is beyond it is written
// and read in place until a quiet moment. So a row of what is parked stays within it:
// 8 MiB for 24 pools, 32 MiB for up to 6. Nobody knows where in a pool writing will go on.
// But at least 8 MiB: for smaller ones the driver's calls take longer than the copies.
// In groups of more than 24 pools a row is more than a fault copies anyway.
constexpr std::uint8_t kLeastParked = 2;

bool newer(const ExtentName& a, const ExtentName& b) { return a.written > b.written; }

bool used_later(const ExtentName& a, const ExtentName& b) {
  return std::pair(a.used, a.written) > std::pair(b.used, b.written);
}

// Both by address.
void keep_what_is_zero(std::span<const ExtentName> extents, std::vector<ExtentName>* blocks) {
  auto extent = extents.begin();
  for (ExtentName& block : *blocks) {
    while (extent != extents.end() && extent->address < block.address) ++extent;
    if (extent == extents.end()) break;
    if (extent->address != block.address || extent->order != block.order) continue;
    block.by_granule = extent->by_granule;
    block.zero_granules = extent->zero_granules;
  }
}

}  // namespace

std::uint8_t DeviceMemory::parked_order(const Group& group) const {
  std::uint8_t order = kMaxOrder;
  while (order > kLeastParked && order_bytes(order) * group.pools.size() > kMostPromotedAtOnce) {
    --order;
  }
  return order;
}

ExtentName DeviceMemory::name_of(const Pool& pool, Extents::const_iterator extent) const {
  const auto& [offset, state] = *extent;
  return {.pool = pool.id,
          .offset = offset,
          .order = state.order,
          .address = address_of(pool, offset),
          .tail = offset + order_granules(state.order) == pool.granules,
          .written = state.written_serial,
          .front = near_front(pool, {offset, state.order}),
          .next_write = next_writes_come(pool, {offset, state.order}),
          .touched = state.parked_tick,
          .used = state.used_tick};
}

// `extents`: of the pool, by address; not all of those between need be there.
void DeviceMemory::add_blocks(const Pool& pool, std::span<const Extents::const_iterator> extents,
                              Direction direction, std::vector<ExtentName>* blocks) const {
  const bool to_host = direction == Direction::kToHost;
  const std::uint8_t parked = parked_order(groups_[pool.group]);
  for (std::size_t i = 0; i < extents.size();) {
    ExtentName block = name_of(pool, extents[i]);
    std::size_t next = i + 1;
    for (std::uint8_t order = to_host ? parked : kMaxOrder; order > block.order && !block.tail;
         --order) {
      const std::uint32_t end = block.offset + order_granules(order);
      if ((pool.first + block.offset) % order_granules(order) != 0 || end >= pool.granules)
        continue;
      if ((to_host || order > parked) && near_front(pool, {block.offset, order})) continue;
      std::size_t last = i;
      std::uint32_t reached = block.offset;
      std::uint64_t written = 0, used = 0;
      while (last < extents.size() && extents[last]->first == reached && reached < end) {
        reached += order_granules(extents[last]->second.order);
        written = std::max(written, extents[last]->second.written_serial);
        used = std::max(used, extents[last]->second.used_tick);
        ++last;
      }
      if (reached != end) continue;
      block.order = order;
      block.next_write = next_writes_come(pool, {block.offset, order});
      block.written = written;
      block.used = used;
      next = last;
      break;
    }
    blocks->push_back(block);
    i = next;
  }
}

std::vector<ExtentName> DeviceMemory::blocks_to_park(std::span<const ExtentName> extents) const {
  std::vector<ExtentName> sorted(extents.begin(), extents.end()), blocks;
  std::sort(sorted.begin(), sorted.end(),
            [](const ExtentName& a, const ExtentName& b) { return a.address < b.address; });
  {
    std::lock_guard lock(mutex_);
    std::vector<Extents::const_iterator> found;
    for (std::size_t i = 0; i < sorted.size();) {
      const std::uint64_t id = sorted[i].pool;
      found.clear();
      Pool* pool = nullptr;
      for (; i < sorted.size() && sorted[i].pool == id; ++i) {
        if (named_extent(sorted[i], ExtentState::kResident, &pool) == nullptr) continue;
        found.push_back(pool->extents.find(sorted[i].offset));
      }
      if (!found.empty()) add_blocks(*pool, found, Direction::kToHost, &blocks);
    }
  }
  keep_what_is_zero(sorted, &blocks);
  std::stable_sort(blocks.begin(), blocks.end(), newer);
  return blocks;
}

// At the fronts too: GPU memory is written without a copy, whatever its extent.
std::vector<ExtentName> DeviceMemory::parked_blocks(
    const std::function<bool(const Extent&)>& wanted) const {
  std::vector<ExtentName> blocks;
  {
    std::lock_guard lock(mutex_);
    std::vector<Extents::const_iterator> found;
    for (const auto& [first, pool] : pools_) {
      found.clear();
      for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
        if (it->second.state == ExtentState::kParked && wanted(it->second) &&
            !pool->pinned(it->first, order_granules(it->second.order))) {
          found.push_back(it);
        }
      }
      add_blocks(*pool, found, Direction::kToGpu, &blocks);
    }
  }
  // Rows were written in turn, so that the layers of one stand beside each other. What requests
  // share was written long ago, and is read by each of them.
  std::stable_sort(blocks.begin(), blocks.end(), used_later);
  return blocks;
}

std::vector<ExtentName> DeviceMemory::blocks_to_return() const {
  return parked_blocks([](const Extent& extent) { return !extent.cold; });
}

std::vector<ExtentName> DeviceMemory::read_while_parked(std::uint64_t tick) const {
  return parked_blocks([tick](const Extent& extent) {
    return extent.move == 0 && !extent.cold && extent.read_tick != 0 && extent.read_tick >= tick;
  });
}

std::vector<ExtentName> DeviceMemory::parked_since(std::uint64_t written_after,
                                                   bool cold_too) const {
  return parked_blocks([=](const Extent& extent) {
    return extent.move == 0 && extent.written_serial > written_after && (!extent.cold || cold_too);
  });
}

std::array<ExtentName, 2> DeviceMemory::halves(const ExtentName& block) {
  ExtentName low = block, high = block;
  low.order = high.order = static_cast<std::uint8_t>(block.order - 1);
  low.by_granule = high.by_granule = false;
  low.zero_granules = high.zero_granules = 0;
  high.offset += order_granules(low.order);
  high.address += low.bytes();
  return {low, high};
}

}  // namespace kvshim::vmm
