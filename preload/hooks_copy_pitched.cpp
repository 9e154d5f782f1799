// Copies of pitched ranges, described by a structure: 2D, 3D, and 3D between
// contexts. What is touched is the range from the first to the last byte of each
// side in device memory.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "preload/copy_range.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/payload.h"
#include "preload/row_copy.h"
#include "preload/sync_memops.h"

namespace kvshim::preload {
namespace {

template <class Description>
constexpr bool kHasSlices = !std::is_same_v<Description, CUDA_MEMCPY2D>;

template <class Description>
CopyExtent extent_of(const Description& copy) {
  CopyExtent extent{copy.WidthInBytes, copy.Height, 1};
  if constexpr (kHasSlices<Description>) extent.depth = copy.Depth;
  return extent;
}

/// A side in linear memory; base 0 for arrays.
template <class Description>
CopySide source_of(const Description& copy) {
  CopySide side{0, copy.srcPitch, 0, copy.srcXInBytes, copy.srcY, 0};
  if (copy.srcMemoryType == CU_MEMORYTYPE_HOST) {
    side.base = reinterpret_cast<std::uintptr_t>(copy.srcHost);
  } else if (copy.srcMemoryType != CU_MEMORYTYPE_ARRAY) {
    side.base = copy.srcDevice;
  }
  if constexpr (kHasSlices<Description>) {
    side.slice_rows = copy.srcHeight;
    side.z = copy.srcZ;
  }
  return side;
}

template <class Description>
CopySide destination_of(const Description& copy) {
  CopySide side{0, copy.dstPitch, 0, copy.dstXInBytes, copy.dstY, 0};
  if (copy.dstMemoryType == CU_MEMORYTYPE_HOST) {
    side.base = reinterpret_cast<std::uintptr_t>(copy.dstHost);
  } else if (copy.dstMemoryType != CU_MEMORYTYPE_ARRAY) {
    side.base = copy.dstDevice;
  }
  if constexpr (kHasSlices<Description>) {
    side.slice_rows = copy.dstHeight;
    side.z = copy.dstZ;
  }
  return side;
}

bool is_array(CUmemorytype type) { return type == CU_MEMORYTYPE_ARRAY; }

/// A side in the arena is device memory, whatever the caller called it: unified,
/// the driver would take an address in the middle of a swap for host memory.
template <class Description>
Description typed(Description copy, bool source_is_pool, bool destination_is_pool) {
  if (source_is_pool && copy.srcMemoryType != CU_MEMORYTYPE_DEVICE) {
    copy.srcDevice = source_of(copy).base;
    copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  }
  if (destination_is_pool && copy.dstMemoryType != CU_MEMORYTYPE_DEVICE) {
    copy.dstDevice = destination_of(copy).base;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  }
  return copy;
}

/// `call` is the real function, taking a description.
template <class Description, class Call>
CUresult pitched_copy(StreamRef stream, bool synchronous, const Description* copy,
                      Call call) noexcept {
  if (copy == nullptr || !pools_exist()) return call(copy);
  return at_boundary([&]() -> CUresult {
    const CopyExtent extent = extent_of(*copy);
    const CopySide source_side = source_of(*copy);
    const ByteRange source =
        is_array(copy->srcMemoryType) ? ByteRange{} : touched(source_side, extent);
    const ByteRange destination =
        is_array(copy->dstMemoryType) ? ByteRange{} : touched(destination_of(*copy), extent);
    const bool source_is_pool = meets_arena(source.address, source.bytes);
    const bool destination_is_pool = meets_arena(destination.address, destination.bytes);
    if (!is_array(copy->srcMemoryType) && copy->srcMemoryType != CU_MEMORYTYPE_DEVICE &&
        !source_is_pool && !is_array(copy->dstMemoryType)) {
      search_payload(stream, source_side, extent);
    }
    if (!source_is_pool && !destination_is_pool) return call(copy);
    std::vector<Access> accesses;
    accesses.reserve(2);
    if (destination_is_pool) accesses.push_back({destination.address, destination.bytes, true});
    if (source_is_pool) accesses.push_back({source.address, source.bytes, false});
    const Description converted = typed(*copy, source_is_pool, destination_is_pool);
    const CopySide destination_side = destination_of(converted);
    const CopySide origin_side = source_of(converted);
    const bool by_rows = !is_array(copy->srcMemoryType) && !is_array(copy->dstMemoryType) &&
                         pitches_are_sane(destination_side, extent) &&
                         pitches_are_sane(origin_side, extent);
    const CUresult result = run_work(stream, accesses, nullptr, [&] {
      const CUresult whole = retry_over_holes([&] { return call(&converted); });
      if (whole != CUDA_ERROR_INVALID_VALUE || !by_rows) return whole;
      const CUresult rows = copy_rows(stream, destination_side, origin_side, extent);
      if (rows != CUDA_SUCCESS || !synchronous) return rows;
      return real().cuStreamSynchronize(stream.explicit_handle());
    });
    return synchronous ? finish_sync_memop(stream, accesses, result) : result;
  });
}

}  // namespace

#define KVSHIM_SYNC_HOOK(name, Description, flavor)                           \
  CUresult hook_##name(const Description* copy) noexcept {                    \
    return pitched_copy({nullptr, StreamFlavor::flavor}, true, copy,          \
                        [](const Description* c) { return real().name(c); }); \
  }
#define KVSHIM_ASYNC_HOOK(name, Description, flavor)                                        \
  CUresult hook_##name(const Description* copy, CUstream stream) noexcept {                 \
    return pitched_copy({stream, StreamFlavor::flavor}, false, copy,                        \
                        [stream](const Description* c) { return real().name(c, stream); }); \
  }

KVSHIM_SYNC_HOOK(cuMemcpy2D_v2, CUDA_MEMCPY2D, kLegacy)
KVSHIM_SYNC_HOOK(cuMemcpy2D_v2_ptds, CUDA_MEMCPY2D, kPerThread)
KVSHIM_SYNC_HOOK(cuMemcpy2DUnaligned_v2, CUDA_MEMCPY2D, kLegacy)
KVSHIM_SYNC_HOOK(cuMemcpy2DUnaligned_v2_ptds, CUDA_MEMCPY2D, kPerThread)
KVSHIM_ASYNC_HOOK(cuMemcpy2DAsync_v2, CUDA_MEMCPY2D, kLegacy)
KVSHIM_ASYNC_HOOK(cuMemcpy2DAsync_v2_ptsz, CUDA_MEMCPY2D, kPerThread)
KVSHIM_SYNC_HOOK(cuMemcpy3D_v2, CUDA_MEMCPY3D, kLegacy)
KVSHIM_SYNC_HOOK(cuMemcpy3D_v2_ptds, CUDA_MEMCPY3D, kPerThread)
KVSHIM_ASYNC_HOOK(cuMemcpy3DAsync_v2, CUDA_MEMCPY3D, kLegacy)
KVSHIM_ASYNC_HOOK(cuMemcpy3DAsync_v2_ptsz, CUDA_MEMCPY3D, kPerThread)
KVSHIM_SYNC_HOOK(cuMemcpy3DPeer, CUDA_MEMCPY3D_PEER, kLegacy)
KVSHIM_SYNC_HOOK(cuMemcpy3DPeer_ptds, CUDA_MEMCPY3D_PEER, kPerThread)
KVSHIM_ASYNC_HOOK(cuMemcpy3DPeerAsync, CUDA_MEMCPY3D_PEER, kLegacy)
KVSHIM_ASYNC_HOOK(cuMemcpy3DPeerAsync_ptsz, CUDA_MEMCPY3D_PEER, kPerThread)

}  // namespace kvshim::preload
