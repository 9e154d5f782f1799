// What the engine allocates otherwise than by cuMemAlloc: none of it becomes a pool, all of
// it counts for the process's limit.
#include "preload/engine_memory.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/plain_allocation.h"

namespace kvshim::preload {
namespace {

template <class Array>
CUresult make_array(Array* array, std::uint64_t bytes, SubmitRef make) noexcept {
  return at_boundary([&] {
    const CUresult result = bytes != 0 ? allocate_plain(nullptr, bytes, make) : make();
    if (result == CUDA_SUCCESS) count_array(*array, bytes);
    return result;
  });
}

CUDA_ARRAY3D_DESCRIPTOR as_3d(const CUDA_ARRAY_DESCRIPTOR& flat) {
  CUDA_ARRAY3D_DESCRIPTOR array{};
  array.Width = flat.Width;
  array.Height = flat.Height;
  array.Format = flat.Format;
  array.NumChannels = flat.NumChannels;
  return array;
}

}  // namespace

CUresult hook_cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes,
                          const CUmemAllocationProp* properties,
                          unsigned long long flags) noexcept {
  return at_boundary([&] {
    const auto create = [&] { return real().cuMemCreate(handle, bytes, properties, flags); };
    const bool of_gpu =
        properties != nullptr && properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
    if (!of_gpu) return create();
    const CUresult result = allocate_plain(nullptr, bytes, create);
    if (result == CUDA_SUCCESS) count_created(*handle, *properties, bytes);
    return result;
  });
}

CUresult hook_cuMemRelease(CUmemGenericAllocationHandle handle) noexcept {
  count_released(handle);
  return real().cuMemRelease(handle);
}

CUresult hook_cuArrayCreate_v2(CUarray* array, const CUDA_ARRAY_DESCRIPTOR* flat) noexcept {
  return make_array(array, flat != nullptr ? array_bytes(as_3d(*flat)) : 0,
                    [&] { return real().cuArrayCreate_v2(array, flat); });
}

CUresult hook_cuArray3DCreate_v2(CUarray* array,
                                 const CUDA_ARRAY3D_DESCRIPTOR* description) noexcept {
  return make_array(array, description != nullptr ? array_bytes(*description) : 0,
                    [&] { return real().cuArray3DCreate_v2(array, description); });
}

CUresult hook_cuArrayDestroy(CUarray array) noexcept {
  uncount_array(array);
  return real().cuArrayDestroy(array);
}

CUresult hook_cuMipmappedArrayCreate(CUmipmappedArray* array,
                                     const CUDA_ARRAY3D_DESCRIPTOR* description,
                                     unsigned int levels) noexcept {
  return make_array(array, description != nullptr ? array_bytes(*description, levels) : 0,
                    [&] { return real().cuMipmappedArrayCreate(array, description, levels); });
}

CUresult hook_cuMipmappedArrayDestroy(CUmipmappedArray array) noexcept {
  uncount_array(array);
  return real().cuMipmappedArrayDestroy(array);
}

}  // namespace kvshim::preload
