// Stream-ordered allocation. Memory is taken when the call is made and given
// back in stream order; a pool keeps nothing for later.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "tests/simulator/address_space.h"
#include "tests/simulator/capture.h"
#include "tests/simulator/gpu_memory.h"
#include "tests/simulator/memory.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

struct Pool {
  bool is_default = false;
  cuuint64_t threshold = 0;
};

struct Pools {
  std::mutex mutex;
  std::unordered_map<CUmemoryPool, std::unique_ptr<Pool>> all;
  CUmemoryPool standard = nullptr;
  CUmemoryPool current = nullptr;

  CUmemoryPool add(bool is_default) {
    auto pool = std::make_unique<Pool>();
    pool->is_default = is_default;
    const auto handle = reinterpret_cast<CUmemoryPool>(pool.get());
    all[handle] = std::move(pool);
    return handle;
  }
};

Pools& pools() {
  static Pools* const instance = [] {
    auto* made = new Pools;
    made->standard = made->add(true);
    made->current = made->standard;
    return made;
  }();
  return *instance;
}

bool exists(CUmemoryPool pool) {
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  return all.all.contains(pool);
}

CUmemoryPool current_pool() {
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  return all.current;
}

CUresult allocate(CUdeviceptr* address, std::size_t bytes, CUmemoryPool pool, CUstream handle) {
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  bool capturing = false;
  {
    const StreamLock lock(stream_mutex());
    const auto stream = find_stream(lock, handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture != nullptr) {
      if (const CUresult dead = check_capture(*stream->capture); dead != CUDA_SUCCESS) return dead;
      capturing = true;
    }
  }
  CUresult result = capturing ? allocate_for_graph(current_context(), bytes, address)
                              : allocate_device(current_context(), bytes, pool, address);
  if (result == CUDA_ERROR_OUT_OF_MEMORY && !capturing) {
    // What was freed earlier in stream order may still be on its way.
    synchronize_context(current_context());
    result = allocate_device(current_context(), bytes, pool, address);
  }
  if (result != CUDA_SUCCESS || !capturing) return result;
  AllocOperation node;
  node.params.bytesize = bytes;
  node.params.dptr = *address;
  node.params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  node.params.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return submit(handle, node);
}

}  // namespace

CUresult api::cuMemAllocAsync(CUdeviceptr* address, std::size_t bytes, CUstream stream) {
  return allocate(address, bytes, current_pool(), stream);
}

CUresult api::cuMemAllocFromPoolAsync(CUdeviceptr* address, std::size_t bytes, CUmemoryPool pool,
                                      CUstream stream) {
  if (!exists(pool)) return CUDA_ERROR_INVALID_VALUE;
  return allocate(address, bytes, pool, stream);
}

CUresult api::cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  const auto range = find_range(address);
  if (!range || range->base != address || range->kind != RangeKind::kDevice) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  FreeOperation operation;
  operation.address = address;
  {
    const StreamLock lock(stream_mutex());
    const auto stream = find_stream(lock, handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    operation.in_graph = stream->capture != nullptr;
    // A graph frees what graphs allocate, nothing else (documented).
    if (operation.in_graph && !range->of_graph) return CUDA_ERROR_INVALID_VALUE;
  }
  return submit(handle, operation);
}

CUresult api::cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* properties) {
  if (pool == nullptr || properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  *pool = all.add(false);
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolDestroy(CUmemoryPool pool) {
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  const auto found = all.all.find(pool);
  if (found == all.all.end() || found->second->is_default) return CUDA_ERROR_INVALID_VALUE;
  if (all.current == pool) all.current = all.standard;
  all.all.erase(found);
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolTrimTo(CUmemoryPool pool, std::size_t) {
  return exists(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute asked, void* value) {
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  const auto found = all.all.find(pool);
  if (found == all.all.end() || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (asked == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
    std::memcpy(&found->second->threshold, value, sizeof found->second->threshold);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute asked, void* value) {
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  const auto found = all.all.find(pool);
  if (found == all.all.end() || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  switch (asked) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      std::memcpy(value, &found->second->threshold, sizeof found->second->threshold);
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      *static_cast<int*>(value) = 1;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult api::cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc*, std::size_t) {
  return exists(pool) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool pool, CUmemLocation*) {
  if (flags == nullptr || !exists(pool)) return CUDA_ERROR_INVALID_VALUE;
  *flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice device) {
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  *pool = all.standard;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice device) {
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  *pool = current_pool();
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  if (!exists(pool)) return CUDA_ERROR_INVALID_VALUE;
  Pools& all = pools();
  const std::lock_guard lock(all.mutex);
  all.current = pool;
  return CUDA_SUCCESS;
}

// Managed memory lives in the host here: advice changes nothing.
CUresult api::cuMemAdvise(CUdeviceptr address, std::size_t bytes, CUmem_advise, CUdevice) {
  return is_covered(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult api::cuMemAdvise_v2(CUdeviceptr address, std::size_t bytes, CUmem_advise, CUmemLocation) {
  return is_covered(address, bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult api::cuMemPrefetchAsync(CUdeviceptr address, std::size_t bytes, CUdevice, CUstream) {
  const auto range = find_range(address);
  const bool managed = range && range->kind == RangeKind::kManaged && is_covered(address, bytes);
  return managed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult api::cuMemPrefetchAsync_v2(CUdeviceptr address, std::size_t bytes, CUmemLocation, unsigned,
                                    CUstream stream) {
  return api::cuMemPrefetchAsync(address, bytes, 0, stream);
}

}  // namespace kvshim::simulator
