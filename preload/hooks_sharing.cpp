// What a pool can't do: be shared as one handle, be mapped by others, behave like
// managed memory. Requests that meet a pool get the driver's error for memory that
// can't do it, and one line in the log; all others are forwarded.
#include <algorithm>
#include <cstddef>

#include "preload/engine_memory.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/peer_access.h"
#include "preload/pool_refusal.h"

namespace kvshim::preload {
namespace {

/// The mapping calls concern the whole arena: what lies there is ours, also
/// between pools.
template <class Call>
CUresult forward_outside_arena(const char* entry_point, CUdeviceptr address, std::size_t bytes,
                               Call call) noexcept {
  if (!meets_arena(address, bytes)) return call();
  return at_boundary([&] {
    const auto pools = pools_in(address, bytes != 0 ? bytes : 1);
    if (!pools.empty()) refuse_pool(entry_point, pools.front(), "changing its mapping");
    return CUDA_ERROR_INVALID_VALUE;
  });
}

/// Lists of managed ranges: one pool among them refuses the list, as one range of
/// cuMemAlloc memory does.
template <class Call>
CUresult forward_unless_any_pool(const char* entry_point, const CUdeviceptr* addresses,
                                 const std::size_t* sizes, std::size_t count, Call call) noexcept {
  if (gate_detail::arena_bytes == 0 || addresses == nullptr || sizes == nullptr) return call();
  for (std::size_t i = 0; i < count; ++i) {
    if (!meets_arena(addresses[i], sizes[i])) continue;
    return forward_unless_pool(entry_point, addresses[i], sizes[i], "what managed memory can",
                               call);
  }
  return call();
}

}  // namespace

CUresult hook_cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) noexcept {
  const CUresult result = real().cuCtxEnablePeerAccess(peer, flags);
  if (result == CUDA_SUCCESS) peer_access_enabled(peer);
  return result;
}

CUresult hook_cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) noexcept {
  return forward_unless_pool("cuIpcGetMemHandle", address, 1, "sharing by legacy IPC",
                             [&] { return real().cuIpcGetMemHandle(handle, address); });
}

CUresult hook_cuMemGetHandleForAddressRange(void* handle, CUdeviceptr address, std::size_t bytes,
                                            CUmemRangeHandleType type,
                                            unsigned long long flags) noexcept {
  return forward_unless_pool(
      "cuMemGetHandleForAddressRange", address, bytes, "sharing as a dma-buf",
      [&] { return real().cuMemGetHandleForAddressRange(handle, address, bytes, type, flags); });
}

CUresult hook_cuMemPoolExportPointer(CUmemPoolPtrExportData* data, CUdeviceptr address) noexcept {
  return forward_unless_pool("cuMemPoolExportPointer", address, 1, "sharing by pointer",
                             [&] { return real().cuMemPoolExportPointer(data, address); });
}

CUresult hook_cuMulticastBindAddr(CUmemGenericAllocationHandle multicast, std::size_t offset,
                                  CUdeviceptr address, std::size_t bytes,
                                  unsigned long long flags) noexcept {
  return forward_unless_pool("cuMulticastBindAddr", address, bytes, "binding to multicast", [&] {
    return real().cuMulticastBindAddr(multicast, offset, address, bytes, flags);
  });
}

CUresult hook_cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                       CUmemGenericAllocationHandle handle, unsigned long long flags) noexcept {
  return forward_outside_arena("cuMemMap", address, bytes, [&] {
    const CUresult result = real().cuMemMap(address, bytes, offset, handle, flags);
    if (result == CUDA_SUCCESS) count_mapped(address, bytes, handle);
    return result;
  });
}

CUresult hook_cuMemUnmap(CUdeviceptr address, std::size_t bytes) noexcept {
  return forward_outside_arena("cuMemUnmap", address, bytes, [&] {
    count_unmapped(address, bytes);
    return real().cuMemUnmap(address, bytes);
  });
}

CUresult hook_cuMemSetAccess(CUdeviceptr address, std::size_t bytes,
                             const CUmemAccessDesc* description, std::size_t count) noexcept {
  return forward_outside_arena("cuMemSetAccess", address, bytes, [&] {
    return real().cuMemSetAccess(address, bytes, description, count);
  });
}

CUresult hook_cuMemAddressFree(CUdeviceptr address, std::size_t bytes) noexcept {
  return forward_outside_arena("cuMemAddressFree", address, bytes,
                               [&] { return real().cuMemAddressFree(address, bytes); });
}

CUresult hook_cuMemAdvise(CUdeviceptr address, std::size_t bytes, CUmem_advise advice,
                          CUdevice device) noexcept {
  return forward_unless_pool("cuMemAdvise", address, bytes, "what managed memory can",
                             [&] { return real().cuMemAdvise(address, bytes, advice, device); });
}

CUresult hook_cuMemAdvise_v2(CUdeviceptr address, std::size_t bytes, CUmem_advise advice,
                             CUmemLocation location) noexcept {
  return forward_unless_pool("cuMemAdvise", address, bytes, "what managed memory can", [&] {
    return real().cuMemAdvise_v2(address, bytes, advice, location);
  });
}

#define KVSHIM_PREFETCH_HOOKS(suffix)                                                           \
  CUresult hook_cuMemPrefetchAsync##suffix(CUdeviceptr address, std::size_t bytes,              \
                                           CUdevice device, CUstream stream) noexcept {         \
    return forward_unless_pool(                                                                 \
        "cuMemPrefetchAsync", address, bytes, "what managed memory can",                        \
        [&] { return real().cuMemPrefetchAsync##suffix(address, bytes, device, stream); });     \
  }                                                                                             \
  CUresult hook_cuMemPrefetchAsync_v2##suffix(CUdeviceptr address, std::size_t bytes,           \
                                              CUmemLocation location, unsigned int flags,       \
                                              CUstream stream) noexcept {                       \
    return forward_unless_pool(                                                                 \
        "cuMemPrefetchAsync", address, bytes, "what managed memory can", [&] {                  \
          return real().cuMemPrefetchAsync_v2##suffix(address, bytes, location, flags, stream); \
        });                                                                                     \
  }                                                                                             \
  CUresult hook_cuMemPrefetchBatchAsync##suffix(                                                \
      CUdeviceptr* addresses, std::size_t* sizes, std::size_t count, CUmemLocation* locations,  \
      std::size_t* starts, std::size_t location_count, unsigned long long flags,                \
      CUstream stream) noexcept {                                                               \
    return forward_unless_any_pool("cuMemPrefetchBatchAsync", addresses, sizes, count, [&] {    \
      return real().cuMemPrefetchBatchAsync##suffix(addresses, sizes, count, locations, starts, \
                                                    location_count, flags, stream);             \
    });                                                                                         \
  }                                                                                             \
  CUresult hook_cuMemDiscardBatchAsync##suffix(CUdeviceptr* addresses, std::size_t* sizes,      \
                                               std::size_t count, unsigned long long flags,     \
                                               CUstream stream) noexcept {                      \
    return forward_unless_any_pool("cuMemDiscardBatchAsync", addresses, sizes, count, [&] {     \
      return real().cuMemDiscardBatchAsync##suffix(addresses, sizes, count, flags, stream);     \
    });                                                                                         \
  }                                                                                             \
  CUresult hook_cuMemDiscardAndPrefetchBatchAsync##suffix(                                      \
      CUdeviceptr* addresses, std::size_t* sizes, std::size_t count, CUmemLocation* locations,  \
      std::size_t* starts, std::size_t location_count, unsigned long long flags,                \
      CUstream stream) noexcept {                                                               \
    return forward_unless_any_pool(                                                             \
        "cuMemDiscardAndPrefetchBatchAsync", addresses, sizes, count, [&] {                     \
          return real().cuMemDiscardAndPrefetchBatchAsync##suffix(                              \
              addresses, sizes, count, locations, starts, location_count, flags, stream);       \
        });                                                                                     \
  }

KVSHIM_PREFETCH_HOOKS()
KVSHIM_PREFETCH_HOOKS(_ptsz)

}  // namespace kvshim::preload
