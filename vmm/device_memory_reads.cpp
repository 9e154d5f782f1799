// What readers read: their marks, taken over into the extents of all siblings.
#include <algorithm>
#include <bit>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

bool DeviceMemory::reads_are_marked(std::uint64_t pool) {
  std::lock_guard lock(mutex_);
  const auto found = pools_by_id_.find(pool);
  if (found == pools_by_id_.end()) return false;
  Group& group = groups_[found->second->group];
  if (!pools_by_id_.contains(group.marked_pool)) group.marked_pool = pool;
  return group.marked_pool == pool;
}

void DeviceMemory::note_reads_of(Pool& pool, const std::vector<bool>& rows, std::uint64_t tick) {
  for (auto& [offset, extent] : pool.extents) {
    if (!extent.present()) continue;
    const auto begin = rows.begin() + std::min<std::ptrdiff_t>(offset, std::ssize(rows));
    const auto end = rows.begin() + std::min<std::ptrdiff_t>(offset + order_granules(extent.order),
                                                             std::ssize(rows));
    if (std::find(begin, end, true) == end) continue;
    extent.read_tick = extent.used_tick = tick;
    extent.cold = false;
  }
}

void DeviceMemory::note_reads(std::span<const std::uint32_t> marks, std::uint64_t tick) {
  struct Marked {
    std::size_t group;
    std::vector<bool> rows;  // by offset in granules
  };
  std::vector<Marked> all;
  const auto mark = [&](GranuleIndex granule) {
    std::lock_guard lock(mutex_);
    const Pool* pool = pool_of_granule(granule);
    if (pool == nullptr) return;
    auto it = std::find_if(all.begin(), all.end(),
                           [&](const Marked& marked) { return marked.group == pool->group; });
    if (it == all.end()) it = all.insert(it, Marked{pool->group, {}});
    const std::size_t row = granule - pool->first;
    if (it->rows.size() <= row) it->rows.resize(row + 1);
    it->rows[row] = true;
  };
  for (std::size_t word = 0; word < marks.size(); ++word) {
    for (std::uint32_t left = marks[word]; left != 0; left &= left - 1) {
      mark(static_cast<GranuleIndex>(word * 32 + static_cast<std::size_t>(std::countr_zero(left))));
    }
  }
  for (const Marked& marked : all) {
    for (std::size_t index = 0;; ++index) {
      std::lock_guard lock(mutex_);  // pools may come and go in between: one of them waits
      const std::vector<Pool*>& siblings = groups_[marked.group].pools;
      if (index >= siblings.size()) break;
      note_reads_of(*siblings[index], marked.rows, tick);
    }
  }
}

}  // namespace kvshim::vmm
