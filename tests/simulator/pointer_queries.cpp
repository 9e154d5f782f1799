// What can be asked about an address. Answers as measured for cuMemAlloc
// memory, virtual memory mappings, reserved and wild addresses.
#include <cstring>

#include "tests/simulator/address_space.h"
#include "tests/simulator/contexts.h"
#include "tests/simulator/virtual_memory.h"

namespace kvshim::simulator {
namespace {

template <class T>
CUresult answer(void* data, T value) {
  std::memcpy(data, &value, sizeof(T));  // NOLINT(bugprone-sizeof-expression): T may be a pointer
  return CUDA_SUCCESS;
}

CUresult attribute(void* data, CUpointer_attribute asked, CUdeviceptr address) {
  const auto found = find_range(address);
  if (!found) return CUDA_ERROR_INVALID_VALUE;
  const Range& range = *found;
  const bool mapping = range.kind == RangeKind::kMapping;
  const bool host = range.kind == RangeKind::kHost || range.kind == RangeKind::kRegistered;
  switch (asked) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return answer(data, mapping ? nullptr : handle_of(range.context));
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return answer<unsigned>(data, host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      if (mapping && range.access == 0) return CUDA_ERROR_INVALID_VALUE;
      return answer(data, address);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!host && range.kind != RangeKind::kManaged) return CUDA_ERROR_INVALID_VALUE;
      return answer(data, address);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      return answer<unsigned>(data, range.sync_memops ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return answer<unsigned long long>(data, range.buffer_id);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return answer<unsigned>(data, range.kind == RangeKind::kManaged ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return answer<int>(data, 0);
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return answer<unsigned>(data, range.kind == RangeKind::kDevice ? 1 : 0);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return answer<CUdeviceptr>(data, mapping ? range.reservation_base : range.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return answer<std::size_t>(data, mapping ? range.reservation_bytes : range.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return answer<unsigned>(data, 1);
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return answer<unsigned long long>(data, 0);
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      return answer<unsigned>(data, mapping ? 0 : 1);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      if (mapping) return answer<unsigned>(data, range.access);
      return answer<unsigned>(data, CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE);
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return answer(data, range.pool);
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return answer<std::size_t>(data, range.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return answer(data, range.base);
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return answer<unsigned long long>(data, range.buffer_id);
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

CUresult api::cuPointerGetAttribute(void* data, CUpointer_attribute asked, CUdeviceptr address) {
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return attribute(data, asked, address);
}

CUresult api::cuPointerGetAttributes(unsigned count, CUpointer_attribute* asked, void** data,
                                     CUdeviceptr address) {
  if (count == 0 || asked == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < count; ++i) {
    // What can't be answered is zero, not an error (measured).
    unsigned char scratch[8] = {};
    const bool wide = asked[i] == CU_POINTER_ATTRIBUTE_CONTEXT ||
                      asked[i] == CU_POINTER_ATTRIBUTE_DEVICE_POINTER ||
                      asked[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER ||
                      asked[i] == CU_POINTER_ATTRIBUTE_BUFFER_ID ||
                      asked[i] == CU_POINTER_ATTRIBUTE_RANGE_START_ADDR ||
                      asked[i] == CU_POINTER_ATTRIBUTE_RANGE_SIZE ||
                      asked[i] == CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE ||
                      asked[i] == CU_POINTER_ATTRIBUTE_MAPPING_SIZE ||
                      asked[i] == CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR ||
                      asked[i] == CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID ||
                      asked[i] == CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES;
    attribute(scratch, asked[i], address);
    std::memcpy(data[i], scratch, wide ? 8 : 4);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                                    CUdeviceptr address) {
  if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto range = find_range(address);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  unsigned on = 0;
  std::memcpy(&on, value, sizeof on);
  change_range(
      range->base, [](Range& r, std::uint64_t v) { r.sync_memops = v != 0; }, on);
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address) {
  const auto range = find_range(address);
  if (!range || (range->kind == RangeKind::kMapping && range->access == 0)) {
    return CUDA_ERROR_NOT_FOUND;
  }
  if (base != nullptr) *base = range->base;
  if (bytes != nullptr) *bytes = range->bytes;
  return CUDA_SUCCESS;
}

CUresult api::cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto range = find_range(address);
  if (!range || range->kind != RangeKind::kDevice) return CUDA_ERROR_INVALID_VALUE;
  // A handle that can be made but not opened: no second process can reach
  // this memory.
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &range->base, sizeof range->base);
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetHandleForAddressRange(void* handle, CUdeviceptr, std::size_t,
                                            CUmemRangeHandleType, unsigned long long) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_ERROR_NOT_SUPPORTED;  // there is no dma-buf without a device
}

}  // namespace kvshim::simulator
