#include "vmm/freed_addresses.h"

#include <algorithm>

namespace kvshim::vmm {

void FreedAddresses::no_guard_runs() {
  last_told_.clear();
  for (Freed& one : freed_) one.request = 0;
}

bool FreedAddresses::is_being_told(const AbiRun& granules) const {
  return std::any_of(last_told_.begin(), last_told_.end(), [&](const AbiRun& run) {
    return run.first < granules.first + granules.count && granules.first < run.first + run.count;
  });
}

void FreedAddresses::add(const GranuleRun& pool) {
  freed_.push_back({pool, is_being_told({pool.first, pool.count}) ? request_ : 0});
}

std::vector<GranuleRun> FreedAddresses::take_settled() {
  std::vector<GranuleRun> taken;
  std::erase_if(freed_, [&](const Freed& one) {
    if (one.request != 0 && one.request == request_) return false;
    taken.push_back(one.pool);
    return true;
  });
  return taken;
}

void FreedAddresses::put_back(std::span<const GranuleRun> pools) {
  for (const GranuleRun& pool : pools) freed_.push_back({pool, 0});
}

std::vector<GranuleRun> FreedAddresses::take_all() {
  no_guard_runs();
  return take_settled();
}

}  // namespace kvshim::vmm
