// Coming back beside work that never pauses: a guard that asks for something copies some
// of what else is parked, too. Its stream is parked on it, and all other pool work is in
// order with it: what it may copy for a row's sake it may copy for any other's.
#include <algorithm>
#include <utility>

#include "vmm/device_memory.h"

namespace kvshim::vmm {
namespace {

// Whose next writes ask. They are where writing was last, so that one of them is written
// soon: asking costs a question for each row, and is answered at once.
constexpr std::size_t kAskers = 16;

bool newer(const ExtentName& a, const ExtentName& b) { return a.written > b.written; }

}  // namespace

std::vector<ExtentName> DeviceMemory::come_along(std::uint64_t written_after, bool cold_too,
                                                 std::uint64_t most, std::uint64_t headroom) {
  std::lock_guard lock(mutex_);
  along_.clear();
  along_headroom_ = headroom;
  for (const auto& [first, pool] : pools_) {
    for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
      const Extent& extent = it->second;
      if (extent.state == ExtentState::kParked && extent.move == 0 &&
          extent.written_serial > written_after && (!extent.cold || cold_too) &&
          !pool->pinned(it->first, order_granules(extent.order))) {
        along_.push_back(name_of(*pool, it));
      }
    }
  }
  std::stable_sort(along_.begin(), along_.end(), newer);
  std::uint64_t bytes = 0;
  std::erase_if(along_, [&](const ExtentName& name) {
    // What the process's own limit forbids would be asked for again and again.
    if (bytes + name.bytes() > most || !within_limit(bytes + name.bytes())) return true;
    bytes += name.bytes();
    return false;
  });
  if (along_.empty()) return {};
  std::vector<ExtentName> asking = written_last_locked(kAskers, false);
  // What was written in place while there was no room has its bits set: it asks again, too.
  asking.insert(asking.end(), along_.begin(), along_.end());
  return asking;
}

// Watched: what they are asked is no fault.
std::vector<ExtentName> DeviceMemory::watch_written_last(std::size_t most) {
  std::lock_guard lock(mutex_);
  std::vector<ExtentName> names = written_last_locked(most, true);
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
std::vector<ExtentName> DeviceMemory::written_last_locked(std::size_t most, bool parked_too) const {
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
      const bool fits = extent.state == ExtentState::kResident ||
                        (parked_too && extent.state == ExtentState::kParked);
      if (!fits || (last.size() == most && extent.written_serial <= last.front().written) ||
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

void DeviceMemory::leave_along() {
  std::lock_guard lock(mutex_);
  along_.clear();
}

// After what the fault itself wants, of which some is made only when this was copied:
// `kept` bytes. The choice may be seconds old: if there is still room for all of them, and
// nobody else needs it.
void DeviceMemory::take_along(std::uint64_t kept) {
  const std::vector<ExtentName> chosen = std::exchange(along_, {});
  Pressure* const pressure = settings_.pressure;
  if (limits_.paused.load(std::memory_order_relaxed) ||
      (pressure != nullptr && pressure->anyone_else() && pressure->anyone_asks())) {
    return;
  }
  for (const ExtentName& name : chosen) {
    Pool* pool = nullptr;
    const Extent* const extent = named_extent(name, ExtentState::kParked, &pool);
    if (extent == nullptr || extent->move != 0 ||
        pool->pinned(name.offset, order_granules(name.order))) {
      continue;
    }
    if (!has_room_for(kept + name.bytes(), along_headroom_)) return;
    const std::size_t before = pending_.size();
    want_promotion(*pool, name.offset);
    if (pending_.size() != before) pending_.back().along = true;
  }
}

}  // namespace kvshim::vmm
