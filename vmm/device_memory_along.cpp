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
                                                 std::uint64_t most) {
  std::vector<ExtentName> askers;
  std::lock_guard lock(mutex_);
  along_.clear();
  for (const auto& [first, pool] : pools_) {
    for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
      const Extent& extent = it->second;
      if (!extent.present() || pool->pinned(it->first, order_granules(extent.order))) continue;
      if (extent.state == ExtentState::kResident) {
        askers.push_back(name_of(*pool, it));
      } else if (extent.written_serial > written_after && (cold_too || !extent.cold)) {
        along_.push_back(name_of(*pool, it));
      }
    }
  }
  std::stable_sort(along_.begin(), along_.end(), newer);
  std::uint64_t bytes = 0;
  std::erase_if(along_, [&](const ExtentName& name) {
    if (bytes + name.bytes() > most) return true;
    bytes += name.bytes();
    return false;
  });
  if (along_.empty()) return {};
  const std::size_t asking = std::min(kAskers, askers.size());
  std::partial_sort(askers.begin(), askers.begin() + static_cast<std::ptrdiff_t>(asking),
                    askers.end(), newer);
  askers.resize(asking);
  // What was written in place while there was no room has its bits set: it asks again, too.
  askers.insert(askers.end(), along_.begin(), along_.end());
  return askers;
}

// After what the fault itself wants, if there is still room for them.
void DeviceMemory::take_along() {
  for (const ExtentName& name : std::exchange(along_, {})) {
    Pool* pool = nullptr;
    if (named_extent(name, ExtentState::kParked, &pool) == nullptr ||
        pool->pinned(name.offset, order_granules(name.order))) {
      continue;
    }
    const std::size_t before = pending_.size();
    want_promotion(*pool, name.offset);
    if (pending_.size() != before) pending_.back().along = true;
  }
}

}  // namespace kvshim::vmm
