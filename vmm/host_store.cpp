#include "vmm/host_store.h"

namespace kvshim::vmm {

void HostStore::release_last(Handles& from, unsigned order) {
  mapper_.release_host(order, from[order].back());
  from[order].pop_back();
  cached_ -= order_bytes(order);
}

void HostStore::make_room(std::uint64_t bytes) {
  for (Handles* handles : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (used_ + cached_ + bytes > budget_ && !(*handles)[order].empty()) {
        release_last(*handles, order);
      }
    }
  }
}

CUresult HostStore::take_from(Handles& first, Handles* second, unsigned order,
                              CUmemGenericAllocationHandle* handle) {
  const std::uint64_t bytes = order_bytes(order);
  if (bytes > room()) return CUDA_ERROR_OUT_OF_MEMORY;
  Handles* const from = !first[order].empty()                            ? &first
                        : second != nullptr && !(*second)[order].empty() ? second
                                                                         : nullptr;
  if (from != nullptr) {
    *handle = (*from)[order].back();
    (*from)[order].pop_back();
    cached_ -= bytes;
  } else {
    make_room(bytes);
    const CUresult result = mapper_.create_host(order, handle);
    if (result != CUDA_SUCCESS) return result;
  }
  used_ += bytes;
  return CUDA_SUCCESS;
}

CUresult HostStore::take(unsigned order, CUmemGenericAllocationHandle* handle) {
  return take_from(cache_, &unused_, order, handle);
}

CUresult HostStore::take_zero(unsigned order, CUmemGenericAllocationHandle* handle) {
  return take_from(unused_, nullptr, order, handle);
}

void HostStore::give_back(unsigned order, CUmemGenericAllocationHandle handle) {
  used_ -= order_bytes(order);
  cached_ += order_bytes(order);
  cache_[order].push_back(handle);
}

bool HostStore::wants(unsigned order, std::size_t wanted) const {
  return cached_of(order) < wanted && used_ + cached_ + order_bytes(order) <= budget_;
}

void HostStore::add_made(unsigned order, CUmemGenericAllocationHandle handle) {
  mapper_.adopt_host(order);
  if (used_ + cached_ + order_bytes(order) > budget_) {  // taken meanwhile
    mapper_.release_host(order, handle);
    return;
  }
  unused_[order].push_back(handle);
  cached_ += order_bytes(order);
}

void HostStore::trim(std::uint64_t keep) {
  for (Handles* handles : {&cache_, &unused_}) {
    for (unsigned order = kOrders; order-- > 0;) {
      while (cached_ > keep && !(*handles)[order].empty()) release_last(*handles, order);
    }
  }
}

}  // namespace kvshim::vmm
