#include "vmm/mapper.h"

#include <atomic>

namespace kvshim::vmm {
namespace {

// Starts and ends of swaps, of all devices. Two counters instead of one
// sequence, since several devices may swap at once.
std::atomic<std::uint64_t> swaps_begun{0};
std::atomic<std::uint64_t> swaps_ended{0};

}  // namespace

// `ended` is read first: if both are equal then, no swap was under way when
// `begun` was read.
SwapWatch SwapWatch::start() noexcept {
  SwapWatch watch;
  watch.ended_ = swaps_ended.load();
  watch.begun_ = swaps_begun.load();
  return watch;
}
bool SwapWatch::overlapped() const noexcept {
  return begun_ != ended_ || swaps_begun.load() != begun_;
}

Mapper::Mapper(const DriverApi& driver, CUdevice device, int host_numa_node, Pressure* pressure)
    : driver_(driver),
      pressure_(pressure),
      device_location_{CU_MEM_LOCATION_TYPE_DEVICE, device},
      host_location_{CU_MEM_LOCATION_TYPE_HOST_NUMA, host_numa_node} {}

void Mapper::begin_swap(CUdeviceptr address, std::size_t bytes) {
  swap_.emplace(AddressRange{address, address + bytes});
  swaps_begun.fetch_add(1);
}

void Mapper::end_swap() {
  swaps_ended.fetch_add(1);
  swap_.reset();
}

CUresult Mapper::create(unsigned order, CUmemLocationType type, int id,
                        CUmemGenericAllocationHandle* handle) const {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = type;
  properties.location.id = id;
  return driver_.cuMemCreate(handle, order_bytes(order), &properties, 0);
}

// Neighbours subtract from what the driver says is used what others' pools hold: told too late,
// memory would be short for a moment, and an engine that starts would say so.
CUresult Mapper::create_on_device(unsigned order, CUmemGenericAllocationHandle* handle) const {
  const auto bytes = static_cast<std::int64_t>(order_bytes(order));
  if (pressure_ != nullptr) pressure_->holds_more(bytes);
  const CUresult result = create(order, device_location_.type, device_location_.id, handle);
  if (result != CUDA_SUCCESS && pressure_ != nullptr) pressure_->holds_more(-bytes);
  return result;
}

void Mapper::release_on_device(unsigned order, CUmemGenericAllocationHandle handle) const {
  driver_.cuMemRelease(handle);
  if (pressure_ != nullptr) pressure_->holds_more(-static_cast<std::int64_t>(order_bytes(order)));
}

CUresult Mapper::create_device(unsigned order, CUmemGenericAllocationHandle* handle) {
  const CUresult result = create_on_device(order, handle);
  if (result == CUDA_SUCCESS) physical_.device += order_bytes(order);
  return result;
}

CUresult Mapper::create_host(unsigned order, CUmemGenericAllocationHandle* handle) {
  const CUresult result = create(order, host_location_.type, host_location_.id, handle);
  if (result == CUDA_SUCCESS) physical_.host += order_bytes(order);
  return result;
}

CUresult Mapper::create_host_uncounted(unsigned order, CUmemGenericAllocationHandle* handle) const {
  return create(order, host_location_.type, host_location_.id, handle);
}

// A release can fail only when the driver is shutting down: the memory is gone
// all the same.
void Mapper::release_device(unsigned order, CUmemGenericAllocationHandle handle) {
  release_on_device(order, handle);
  physical_.device -= order_bytes(order);
}
void Mapper::release_host(unsigned order, CUmemGenericAllocationHandle handle) {
  driver_.cuMemRelease(handle);
  physical_.host -= order_bytes(order);
}

CUresult Mapper::zero_handle(unsigned order, CUmemGenericAllocationHandle* handle) {
  if (zero_handles_[order] == 0) {
    CUmemGenericAllocationHandle made = 0;
    const CUresult result = create_on_device(order, &made);
    if (result != CUDA_SUCCESS) return result;
    zero_handles_[order] = made;
    physical_.zero += order_bytes(order);
  }
  *handle = zero_handles_[order];
  return CUDA_SUCCESS;
}

void Mapper::release_zero_handles() {
  for (unsigned order = 0; order < kOrders; ++order) {
    if (zero_handles_[order] == 0) continue;
    release_on_device(order, zero_handles_[order]);
    zero_handles_[order] = 0;
    physical_.zero -= order_bytes(order);
  }
}

CUresult Mapper::map(CUdeviceptr address, unsigned order, CUmemGenericAllocationHandle handle,
                     bool writable) {
  const std::size_t bytes = order_bytes(order);
  CUresult result = driver_.cuMemMap(address, bytes, 0, handle, 0);
  if (result != CUDA_SUCCESS) return result;
  const CUmemAccessDesc access{device_location_, writable ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
                                                          : CU_MEM_ACCESS_FLAGS_PROT_READ};
  result = driver_.cuMemSetAccess(address, bytes, &access, 1);
  if (result != CUDA_SUCCESS) driver_.cuMemUnmap(address, bytes);
  return result;
}

CUresult Mapper::unmap(CUdeviceptr address, std::size_t bytes) {
  return driver_.cuMemUnmap(address, bytes);
}

CUresult Mapper::map_zero_piece(CUdeviceptr address, unsigned order) {
  const unsigned mapped = zero_order(order);
  CUmemGenericAllocationHandle zero = 0;
  const CUresult result = zero_handle(mapped, &zero);
  if (result != CUDA_SUCCESS) return result;
  const CUdeviceptr end = address + order_bytes(order);
  for (CUdeviceptr at = address; at < end; at += order_bytes(mapped)) {
    const CUresult one = map(at, mapped, zero, false);
    if (one == CUDA_SUCCESS) continue;
    if (at != address) unmap(address, at - address);
    return one;
  }
  return CUDA_SUCCESS;
}

CUresult Mapper::map_zero(CUdeviceptr pool_address, std::span<const Piece> pieces) {
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const CUresult result =
        map_zero_piece(pool_address + pieces[i].offset * kGranuleBytes, pieces[i].order);
    if (result == CUDA_SUCCESS) continue;
    while (i-- > 0) {
      unmap(pool_address + pieces[i].offset * kGranuleBytes, order_bytes(pieces[i].order));
    }
    return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace kvshim::vmm
