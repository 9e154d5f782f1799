#include "vmm/host_store.h"

namespace kvshim::vmm {

void HostStore::make_room(std::uint64_t bytes) {
  for (unsigned order = kOrders; order-- > 0;) {
    while (used_ + cached_ + bytes > budget_ && !cache_[order].empty()) {
      mapper_.release_host(order, cache_[order].back());
      cache_[order].pop_back();
      cached_ -= order_bytes(order);
    }
  }
}

CUresult HostStore::take(unsigned order, CUmemGenericAllocationHandle* handle) {
  const std::uint64_t bytes = order_bytes(order);
  if (bytes > room()) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!cache_[order].empty()) {
    *handle = cache_[order].back();
    cache_[order].pop_back();
    cached_ -= bytes;
  } else {
    make_room(bytes);
    const CUresult result = mapper_.create_host(order, handle);
    if (result != CUDA_SUCCESS) return result;
  }
  used_ += bytes;
  return CUDA_SUCCESS;
}

void HostStore::give_back(unsigned order, CUmemGenericAllocationHandle handle) {
  used_ -= order_bytes(order);
  cached_ += order_bytes(order);
  cache_[order].push_back(handle);
}

bool HostStore::wants(unsigned order, std::size_t wanted) const {
  return cache_[order].size() < wanted && used_ + cached_ + order_bytes(order) <= budget_;
}

void HostStore::add_made(unsigned order, CUmemGenericAllocationHandle handle) {
  mapper_.adopt_host(order);
  if (used_ + cached_ + order_bytes(order) > budget_) {  // taken meanwhile
    mapper_.release_host(order, handle);
    return;
  }
  cache_[order].push_back(handle);
  cached_ += order_bytes(order);
}

void HostStore::trim(std::uint64_t keep) {
  for (unsigned order = kOrders; order-- > 0;) {
    while (cached_ > keep && !cache_[order].empty()) {
      mapper_.release_host(order, cache_[order].back());
      cache_[order].pop_back();
      cached_ -= order_bytes(order);
    }
  }
}

}  // namespace kvshim::vmm
