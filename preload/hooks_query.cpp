// Address queries. A pool answers like one cuMemAlloc allocation, from the shim's
// table: the driver would describe single mappings, or a hole in the middle of a
// swap. Values as measured for cuMemAlloc memory on an H100, driver 580, except
// for the capabilities that a pool hasn't (docs/entry_points.md).
#include <cstddef>
#include <cstring>
#include <optional>

#include "preload/engine_memory.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/pool_refusal.h"
#include "preload/sync_memops.h"

namespace kvshim::preload {
namespace {

std::optional<PoolView> pool_at(CUdeviceptr address) noexcept {
  return in_arena(address) ? find_pool(address) : std::nullopt;
}

// The driver counts its buffers and blocks from 1; pools are counted apart.
constexpr unsigned long long kPoolIds = 1ull << 48;

template <class T>
CUresult give(void* data, T value) {
  std::memcpy(data, &value, sizeof(T));  // NOLINT(bugprone-sizeof-expression): T may be a pointer
  return CUDA_SUCCESS;
}

/// The size that was asked for; the pool itself is whole granules.
std::size_t told_bytes(const PoolView& pool) noexcept {
  return pool.requested_bytes != 0 ? pool.requested_bytes : pool.bytes;
}

/// What the current context's device may do with the pool.
unsigned int access_flags(const PoolView& pool) {
  CUdevice current = -1;
  if (real().cuCtxGetDevice(&current) != CUDA_SUCCESS || current != pool.device) {
    return CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE;
  }
  return CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE;
}

/// One attribute of `address`, which lies in `pool`. Booleans are ints, as
/// callers of the driver (NCCL, GDRCopy) declare them.
CUresult attribute_of(const PoolView& pool, void* data, CUpointer_attribute attribute,
                      CUdeviceptr address) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return give(data, pool.context);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return give(data, static_cast<unsigned int>(CU_MEMORYTYPE_DEVICE));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return give(data, address);
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      return give(data, static_cast<unsigned int>(sync_memops(pool)));
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      return give(data, kPoolIds + pool.buffer_id);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return give(data, static_cast<int>(pool.device));
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      return give(data, pool.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      return give(data, told_bytes(pool));
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return give(data, 1u);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return give(data, access_flags(pool));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return give(data, CUmemoryPool{nullptr});
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      return give(data, 0ull);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    // What a pool can't do is not claimed: callers choose a way to share by these.
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
      return give(data, 0u);
    default:  // no host pointer; no tokens for other devices; unknown
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

CUresult hook_cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes,
                                      CUdeviceptr address) noexcept {
  const auto pool = pool_at(address);
  if (!pool) return real().cuMemGetAddressRange_v2(base, bytes, address);
  if (base != nullptr) *base = pool->base;
  if (bytes != nullptr) *bytes = told_bytes(*pool);
  return CUDA_SUCCESS;
}

CUresult hook_cuPointerGetAttribute(void* data, CUpointer_attribute attribute,
                                    CUdeviceptr address) noexcept {
  const auto pool = pool_at(address);
  if (!pool) return real().cuPointerGetAttribute(data, attribute, address);
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return attribute_of(*pool, data, attribute, address);
}

CUresult hook_cuPointerGetAttributes(unsigned int count, CUpointer_attribute* attributes,
                                     void** data, CUdeviceptr address) noexcept {
  const auto pool = pool_at(address);
  if (!pool) return real().cuPointerGetAttributes(count, attributes, data, address);
  if (count == 0 || attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned int i = 0; i < count; ++i) {
    if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (attributes[i] == CU_POINTER_ATTRIBUTE_HOST_POINTER) {
      // Asked for in a list, what does not exist is null instead of an error.
      give(data[i], static_cast<void*>(nullptr));
      continue;
    }
    const CUresult result = attribute_of(*pool, data[i], attributes[i], address);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult hook_cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                                    CUdeviceptr address) noexcept {
  const auto pool = pool_at(address);
  if (!pool) return real().cuPointerSetAttribute(value, attribute, address);
  if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return at_boundary([&] {
    unsigned int on = 0;
    std::memcpy(&on, value, sizeof on);
    set_sync_memops(*pool, on != 0);
    return CUDA_SUCCESS;
  });
}

CUresult hook_cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                             CUdeviceptr address) noexcept {
  const auto pool = pool_at(address);
  if (!pool) return real().cuMemGetAccess(flags, location, address);
  if (flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // cuMemAlloc memory has no access flags of the mapping kind; measured: 0.
  *flags = 0;
  return CUDA_SUCCESS;
}

CUresult hook_cuMemRangeGetAttribute(void* data, std::size_t data_bytes,
                                     CUmem_range_attribute attribute, CUdeviceptr address,
                                     std::size_t bytes) noexcept {
  return forward_unless_pool(
      "cuMemRangeGetAttribute", address, bytes, "a managed range's query",
      [&] { return real().cuMemRangeGetAttribute(data, data_bytes, attribute, address, bytes); });
}

CUresult hook_cuMemRangeGetAttributes(void** data, std::size_t* data_bytes,
                                      CUmem_range_attribute* attributes, std::size_t count,
                                      CUdeviceptr address, std::size_t bytes) noexcept {
  return forward_unless_pool(
      "cuMemRangeGetAttributes", address, bytes, "a managed range's query", [&] {
        return real().cuMemRangeGetAttributes(data, data_bytes, attributes, count, address, bytes);
      });
}

CUresult hook_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle,
                                          void* address) noexcept {
  const auto word = reinterpret_cast<CUdeviceptr>(address);
  return forward_unless_pool("cuMemRetainAllocationHandle", word, 1, "retaining its handle", [&] {
    const CUresult result = real().cuMemRetainAllocationHandle(handle, address);
    if (result == CUDA_SUCCESS) count_retained(*handle);
    return result;
  });
}

}  // namespace kvshim::preload
