// Moves beside work need a guard to ask. Guards ask where bits are clear: where writing was last
// something is written soon.
#include <algorithm>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

// Watched: what they are asked is no fault.
std::vector<ExtentName> DeviceMemory::watch_written_last(std::size_t most) {
  std::lock_guard lock(mutex_);
  std::vector<ExtentName> names = written_last_locked(most);
  for (const ExtentName& name : names) {
    Pool* pool = nullptr;
    Extent* const extent = named_extent(name, ExtentState::kResident, &pool);
    if (extent != nullptr && extent->watched_tick == 0 &&
        !freed_.is_being_told({arena_.granule(name.address), order_granules(name.order)})) {
      extent->watched_tick = tick();
    }
  }
  return names;
}

// Of one pool of siblings: so many rows, and not the layers of one. Named at the end: there may
// be tens of thousands, and a fault waits meanwhile.
std::vector<ExtentName> DeviceMemory::written_last_locked(std::size_t most) const {
  struct Candidate {
    std::uint64_t written;
    const Pool* pool;
    Extents::const_iterator extent;
  };
  const auto later = [](const Candidate& a, const Candidate& b) { return a.written > b.written; };
  std::vector<Candidate> last;  // a heap, the first to go on top
  for (const Group& group : groups_) {
    if (group.pools.empty()) continue;
    const Pool* const pool = group.pools.front();
    for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
      const Extent& extent = it->second;
      if (!extent.present() ||
          (last.size() == most && extent.written_serial <= last.front().written) ||
          pool->pinned(it->first, order_granules(extent.order))) {
        continue;
      }
      if (last.size() == most) {
        std::pop_heap(last.begin(), last.end(), later);
        last.pop_back();
      }
      last.push_back({extent.written_serial, pool, it});
      std::push_heap(last.begin(), last.end(), later);
    }
  }
  std::vector<ExtentName> names;
  for (const Candidate& one : last) names.push_back(name_of(*one.pool, one.extent));
  return names;
}

}  // namespace kvshim::vmm
