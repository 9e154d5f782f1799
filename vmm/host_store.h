// Host memory for parked contents: slabs of every order, a budget, and slabs
// made ahead (pinning costs 0.2 to 0.45 s per GiB: docs of facts, so it must
// not be paid while a release waits).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "vmm/mapper.h"
#include "vmm/windows.h"

namespace kvshim::vmm {

/// A slab is a host handle. Contents are copied to it through its window: a second mapping,
/// outside the pools. A cached slab gets one ahead of the release that will use it, so that parking
/// pays for the pool's mapping only. Then it goes: a GiB of them takes 2 MiB of GPU memory for page
/// tables (docs/results/driver_semantics.md). Not thread-safe: under the owning
/// DeviceMemory's mutex.
class HostStore {
 public:
  HostStore(const DriverApi& driver, Mapper& mapper, std::uint64_t budget)
      : mapper_(mapper), windows_(driver), budget_(budget) {}

  /// A cached handle of the order that is about to be overwritten as a whole; false
  /// when there is none. Pins nothing.
  bool take_cached(unsigned order, CUmemGenericAllocationHandle* handle);
  /// A handle that holds zeros: never used before; made now if need be. For pages
  /// that were absent. OUT_OF_MEMORY when the budget has no room (the driver is not
  /// asked then).
  CUresult take_zero(unsigned order, CUmemGenericAllocationHandle* handle);
  /// Back to the cache.
  void give_back(unsigned order, CUmemGenericAllocationHandle handle);

  /// Where the GPU reaches a taken handle's memory beside the pools, until it is given back or
  /// window_is_spare(); 0 when the driver refuses to map it. Mapped now if need be.
  CUdeviceptr window(unsigned order, CUmemGenericAllocationHandle handle);
  /// Of a taken handle. REQUIRES: no copy through it is under way, none will begin.
  void window_is_spare(CUmemGenericAllocationHandle handle);
  /// Unmaps at most so many windows, spare ones and those of cached slabs; true when there are
  /// more.
  bool unmap_spare_windows(std::size_t most);
  /// Maps windows of some of the cached slabs that will be taken next, `wanted` of each order: as
  /// many as take 0.1 to 0.4 ms. False when all have theirs, or the driver refuses.
  bool map_windows_ahead(const std::array<std::size_t, kOrders>& wanted);

  /// The largest order of which fewer are cached than `wanted`, if the budget has
  /// room for one more beside what is wanted; kOrders: nothing is to be made.
  unsigned order_to_make(const std::array<std::size_t, kOrders>& wanted) const;
  /// Whether the budget has room for a handle that somebody takes now; cached ones
  /// give way to it.
  bool make_room_for(unsigned order);
  /// Adds a handle made elsewhere (making takes long; it is done unlocked), or
  /// releases it when the budget has no room left (false). Cached ones of orders of
  /// which more than `wanted` are there give way.
  bool add_made(unsigned order, CUmemGenericAllocationHandle handle,
                const std::array<std::size_t, kOrders>& wanted = {});
  /// Releases cached handles until at most `keep` bytes are cached.
  void trim(std::uint64_t keep);
  /// Whether contents may be on their way to a taken handle: its window isn't spare.
  bool window_is_busy(CUmemGenericAllocationHandle handle) const {
    const auto it = taken_windows_.find(handle);
    return it != taken_windows_.end() && !it->second.spare;
  }
  /// What is not as it must be; empty when all is well.
  std::string broken_invariant() const;

  std::uint64_t budget() const { return budget_; }
  std::uint64_t in_use() const { return used_; }  // handed out
  std::uint64_t cached() const { return cached_; }
  std::uint64_t room() const { return budget_ > used_ ? budget_ - used_ : 0; }
  std::size_t cached_of(unsigned order) const {
    return cache_[order].size() + unused_[order].size();
  }

 private:
  struct Slab {
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr window = 0;  // 0: none
  };
  using Slabs = std::array<std::vector<Slab>, kOrders>;
  struct TakenWindow {
    CUdeviceptr address = 0;
    unsigned order = 0;
    bool spare = false;
  };
  void take_last(Slabs& from, unsigned order, CUmemGenericAllocationHandle* handle);
  bool make_room(std::uint64_t bytes, const std::array<std::size_t, kOrders>& wanted);
  void release_last(Slabs& from, unsigned order);
  CUdeviceptr map_window(unsigned order, CUmemGenericAllocationHandle handle);
  void unmap_window(unsigned order, CUdeviceptr window);
  Mapper& mapper_;
  Windows windows_;
  std::uint64_t budget_;
  std::uint64_t used_ = 0, cached_ = 0;
  std::size_t lost_windows_ = 0;  // that could not be unmapped
  Slabs cache_;                   // hold what was parked in them last
  Slabs unused_;                  // made ahead: still zero
  std::unordered_map<CUmemGenericAllocationHandle, TakenWindow> taken_windows_;
};

}  // namespace kvshim::vmm
