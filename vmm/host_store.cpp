#include "vmm/host_store.h"

#include <algorithm>

namespace kvshim::vmm {

// A handle lives while it is mapped: its window goes first. A window that can't be
// unmapped is never used again; its memory is then gone until the process ends.
void HostStore::release_last(Handles& from, unsigned order) {
  const CUmemGenericAllocationHandle handle = from[order].back();
  from[order].pop_back();
  if (const auto it = mapped_.find(handle); it != mapped_.end()) {
    const CUdeviceptr window = it->second;
    mapped_.erase(it);
    if (mapper_.unmap(window, order_bytes(order)) == CUDA_SUCCESS ||
        mapper_.unmap(window, order_bytes(order)) == CUDA_SUCCESS) {
      windows_.give_back(order, window);
    }
  }
  mapper_.release_host(order, handle);
  cached_ -= order_bytes(order);
}

bool HostStore::make_room(std::uint64_t bytes, const std::array<std::size_t, kOrders>& wanted) {
  for (Handles* handles : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (used_ + cached_ + bytes > budget_ && !(*handles)[order].empty() &&
             cached_of(order) > wanted[order]) {
        release_last(*handles, order);
      }
    }
  }
  return used_ + cached_ + bytes <= budget_;
}

bool HostStore::make_room_for(unsigned order) { return make_room(order_bytes(order), {}); }

void HostStore::take_last(Handles& from, unsigned order, CUmemGenericAllocationHandle* handle) {
  *handle = from[order].back();
  from[order].pop_back();
  cached_ -= order_bytes(order);
  used_ += order_bytes(order);
}

bool HostStore::take_cached(unsigned order, CUmemGenericAllocationHandle* handle) {
  for (Handles* handles : {&cache_, &unused_}) {
    if ((*handles)[order].empty()) continue;
    take_last(*handles, order, handle);
    return true;
  }
  return false;
}

CUresult HostStore::take_zero(unsigned order, CUmemGenericAllocationHandle* handle) {
  if (!unused_[order].empty()) {
    take_last(unused_, order, handle);
    return CUDA_SUCCESS;
  }
  if (!make_room_for(order)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = mapper_.create_host(order, handle);
  if (result == CUDA_SUCCESS) used_ += order_bytes(order);
  return result;
}

void HostStore::give_back(unsigned order, CUmemGenericAllocationHandle handle) {
  used_ -= order_bytes(order);
  cached_ += order_bytes(order);
  cache_[order].push_back(handle);
}

CUdeviceptr HostStore::window(unsigned order, CUmemGenericAllocationHandle handle) {
  if (const auto it = mapped_.find(handle); it != mapped_.end()) return it->second;
  const CUdeviceptr window = windows_.take(order);
  if (window == 0) return 0;
  if (mapper_.map(window, order, handle, true) != CUDA_SUCCESS) {
    windows_.give_back(order, window);
    return 0;
  }
  mapped_[handle] = window;
  return window;
}

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
  unused_[order].push_back(handle);
  cached_ += order_bytes(order);
  return true;
}

void HostStore::trim(std::uint64_t keep) {
  for (Handles* handles : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (cached_ > keep && !(*handles)[order].empty()) release_last(*handles, order);
    }
  }
  windows_.release();
}

}  // namespace kvshim::vmm
