// Host memory for parked contents: handles of every order, a budget, and slabs
// made ahead (pinning costs 0.2 to 0.45 s per GiB: docs of facts, so it must
// not be paid while a release waits).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "vmm/mapper.h"

namespace kvshim::vmm {

/// Not thread-safe: under the owning DeviceMemory's mutex.
class HostStore {
 public:
  HostStore(Mapper& mapper, std::uint64_t budget) : mapper_(mapper), budget_(budget) {}

  /// A handle of the order that is about to be overwritten as a whole: from the
  /// cache, else newly made. OUT_OF_MEMORY when the budget has no room (the
  /// driver is not asked then).
  CUresult take(unsigned order, CUmemGenericAllocationHandle* handle);
  /// The same, holding zeros: never used before. For pages that were absent.
  CUresult take_zero(unsigned order, CUmemGenericAllocationHandle* handle);
  /// Back to the cache.
  void give_back(unsigned order, CUmemGenericAllocationHandle handle);
  /// Whether a handle of the order should be made ahead so that `wanted` are
  /// cached, and the budget has room for it.
  bool wants(unsigned order, std::size_t wanted) const;
  /// Adds a handle made elsewhere (making takes long; it is done unlocked), or
  /// releases it when the budget has no room left.
  void add_made(unsigned order, CUmemGenericAllocationHandle handle);
  /// Releases cached handles until at most `keep` bytes are cached.
  void trim(std::uint64_t keep);

  std::uint64_t budget() const { return budget_; }
  std::uint64_t in_use() const { return used_; }      // handed out
  std::uint64_t cached() const { return cached_; }
  std::uint64_t room() const { return budget_ > used_ ? budget_ - used_ : 0; }
  std::size_t cached_of(unsigned order) const {
    return cache_[order].size() + unused_[order].size();
  }

 private:
  using Handles = std::array<std::vector<CUmemGenericAllocationHandle>, kOrders>;
  CUresult take_from(Handles& first, Handles* second, unsigned order,
                     CUmemGenericAllocationHandle* handle);
  // Other cached handles give way when the budget needs it.
  void make_room(std::uint64_t bytes);
  void release_last(Handles& from, unsigned order);
  Mapper& mapper_;
  std::uint64_t budget_;
  std::uint64_t used_ = 0, cached_ = 0;
  Handles cache_;   // hold what was parked in them last
  Handles unused_;  // made ahead: still zero
};

}  // namespace kvshim::vmm
