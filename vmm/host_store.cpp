#include "vmm/host_store.h"

#include <algorithm>

namespace kvshim::vmm {

// A window that can't be unmapped is never used again: its slab gets another one, and its memory
// outlives the slab's release.
void HostStore::unmap_window(unsigned order, CUdeviceptr window) {
  if (mapper_.unmap(window, order_bytes(order)) == CUDA_SUCCESS ||
      mapper_.unmap(window, order_bytes(order)) == CUDA_SUCCESS) {
    windows_.give_back(order, window);
  } else {
    ++lost_windows_;
  }
}

// A handle lives while it is mapped: its window goes first.
void HostStore::release_last(Slabs& from, unsigned order) {
  const Slab slab = from[order].back();
  from[order].pop_back();
  if (slab.window != 0) unmap_window(order, slab.window);
  mapper_.release_host(order, slab.handle);
  cached_ -= order_bytes(order);
}

bool HostStore::make_room(std::uint64_t bytes, const std::array<std::size_t, kOrders>& wanted) {
  for (Slabs* slabs : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (used_ + cached_ + bytes > budget_ && !(*slabs)[order].empty() &&
             cached_of(order) > wanted[order]) {
        release_last(*slabs, order);
      }
    }
  }
  return used_ + cached_ + bytes <= budget_;
}

bool HostStore::make_room_for(unsigned order) { return make_room(order_bytes(order), {}); }

void HostStore::take_last(Slabs& from, unsigned order, CUmemGenericAllocationHandle* handle) {
  const Slab slab = from[order].back();
  from[order].pop_back();
  *handle = slab.handle;
  if (slab.window != 0) taken_windows_[slab.handle] = {slab.window, order};
  cached_ -= order_bytes(order);
  used_ += order_bytes(order);
}

bool HostStore::take_cached(unsigned order, CUmemGenericAllocationHandle* handle) {
  for (Slabs* slabs : {&cache_, &unused_}) {
    if ((*slabs)[order].empty()) continue;
    take_last(*slabs, order, handle);
    return true;
  }
  return false;
}

CUresult HostStore::take_zero(unsigned order, CUmemGenericAllocationHandle* handle) {
  if (!unused_[order].empty()) {
    take_last(unused_, order, handle);
    window_is_spare(*handle);
    return CUDA_SUCCESS;
  }
  if (!make_room_for(order)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = mapper_.create_host(order, handle);
  if (result == CUDA_SUCCESS) used_ += order_bytes(order);
  return result;
}

void HostStore::give_back(unsigned order, CUmemGenericAllocationHandle handle) {
  Slab slab{handle};
  if (const auto it = taken_windows_.find(handle); it != taken_windows_.end()) {
    slab.window = it->second.address;
    taken_windows_.erase(it);
  }
  used_ -= order_bytes(order);
  cached_ += order_bytes(order);
  cache_[order].push_back(slab);
}

// --- windows ----------------------------------------------------------------------

CUdeviceptr HostStore::map_window(unsigned order, CUmemGenericAllocationHandle handle) {
  const CUdeviceptr window = windows_.take(order);
  if (window == 0) return 0;
  if (mapper_.map(window, order, handle, true) != CUDA_SUCCESS) {
    windows_.give_back(order, window);
    return 0;
  }
  return window;
}

CUdeviceptr HostStore::window(unsigned order, CUmemGenericAllocationHandle handle) {
  if (const auto it = taken_windows_.find(handle); it != taken_windows_.end()) {
    it->second.spare = false;
    return it->second.address;
  }
  const CUdeviceptr window = map_window(order, handle);
  if (window != 0) taken_windows_[handle] = {window, order};
  return window;
}

void HostStore::window_is_spare(CUmemGenericAllocationHandle handle) {
  if (const auto it = taken_windows_.find(handle); it != taken_windows_.end()) {
    it->second.spare = true;
  }
}

// At each tick of an idle process: with no window left it looks at no slab.
bool HostStore::unmap_spare_windows(std::size_t most) {
  if (windows_.taken() == lost_windows_) return false;
  for (auto it = taken_windows_.begin(); it != taken_windows_.end();) {
    if (!it->second.spare) {
      ++it;
      continue;
    }
    if (most-- == 0) return true;
    unmap_window(it->second.order, it->second.address);
    it = taken_windows_.erase(it);
  }
  for (Slabs* slabs : {&cache_, &unused_}) {
    for (unsigned order = 0; order < kOrders; ++order) {
      for (Slab& slab : (*slabs)[order]) {
        if (slab.window == 0) continue;
        if (most-- == 0) return true;
        unmap_window(order, slab.window);
        slab.window = 0;
      }
    }
  }
  return false;
}

// Opening one takes 35 us and 9 us for each MiB (docs/results/parking.md), for which a fault waits.
bool HostStore::map_windows_ahead(const std::array<std::size_t, kOrders>& wanted) {
  constexpr std::uint64_t kAtOnce = std::uint64_t{8} << 20;
  std::uint64_t mapped = 0;
  for (unsigned order = kOrders; order-- > 0;) {
    std::size_t left = wanted[order];
    for (Slabs* slabs : {&cache_, &unused_}) {
      std::vector<Slab>& all = (*slabs)[order];
      for (auto slab = all.rbegin(); slab != all.rend() && left != 0; ++slab, --left) {
        if (slab->window != 0) continue;
        slab->window = map_window(order, slab->handle);
        if (slab->window == 0) return false;
        mapped += order_bytes(order);
        if (mapped >= kAtOnce) return true;
      }
    }
  }
  return mapped != 0;
}

// --- making ahead -----------------------------------------------------------------

unsigned HostStore::order_to_make(const std::array<std::size_t, kOrders>& wanted) const {
  std::uint64_t needed = used_;
  for (unsigned order = 0; order < kOrders; ++order) {
    needed += order_bytes(order) * std::min(cached_of(order), wanted[order]);
  }
  for (unsigned order = kOrders; order-- > 0;) {
    if (cached_of(order) < wanted[order] && needed + order_bytes(order) <= budget_) return order;
  }
  return kOrders;
}

bool HostStore::add_made(unsigned order, CUmemGenericAllocationHandle handle,
                         const std::array<std::size_t, kOrders>& wanted) {
  mapper_.adopt_host(order);
  if (!make_room(order_bytes(order), wanted)) {  // taken meanwhile
    mapper_.release_host(order, handle);
    return false;
  }
  unused_[order].push_back({handle});
  cached_ += order_bytes(order);
  return true;
}

std::string HostStore::broken_invariant() const {
  std::size_t windows = taken_windows_.size() + lost_windows_;
  for (const Slabs* slabs : {&cache_, &unused_}) {
    for (const std::vector<Slab>& all : *slabs) {
      for (const Slab& slab : all) {
        windows += slab.window != 0 ? 1 : 0;
        if (taken_windows_.contains(slab.handle)) return "I5: a cached slab has a taken window";
      }
    }
  }
  if (windows == windows_.taken()) return "";
  return "I5: " + std::to_string(windows_.taken()) + " windows are taken, " +
         std::to_string(windows) + " are known";
}

void HostStore::trim(std::uint64_t keep) {
  for (Slabs* slabs : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (cached_ > keep && !(*slabs)[order].empty()) release_last(*slabs, order);
    }
  }
  windows_.release();
}

}  // namespace kvshim::vmm
