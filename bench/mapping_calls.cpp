#include "bench/mapping_calls.h"

#include <algorithm>

#include "bench/device_work.h"

namespace kvshim::bench {

MappingDevice::MappingDevice() {
  KVSHIM_BENCH_CHECK(cuInit(0));
  KVSHIM_BENCH_CHECK(cuDeviceGet(&device, 0));
  KVSHIM_BENCH_CHECK(cuDevicePrimaryCtxRetain(&context, device));
  KVSHIM_BENCH_CHECK(cuCtxSetCurrent(context));
  cuDeviceGetAttribute(&numa_node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device);
  numa_node = std::max(numa_node, 0);
}

MappingHandles make_handles(const MappingDevice& on, CUmemLocationType location,
                            std::size_t handle_bytes, std::size_t total) {
  CUmemAllocationProp wanted{};
  wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  wanted.location.type = location;
  if (location == CU_MEM_LOCATION_TYPE_DEVICE) wanted.location.id = on.device;
  if (location == CU_MEM_LOCATION_TYPE_HOST_NUMA) wanted.location.id = on.numa_node;
  MappingHandles handles;
  while (handles.size() * handle_bytes < total) {
    CUmemGenericAllocationHandle handle = 0;
    if (cuMemCreate(&handle, handle_bytes, &wanted, 0) != CUDA_SUCCESS) {
      release_handles(&handles);
      break;
    }
    handles.push_back(handle);
  }
  return handles;
}

void release_handles(MappingHandles* handles) {
  for (const auto handle : *handles) KVSHIM_BENCH_CHECK(cuMemRelease(handle));
  handles->clear();
}

CUresult map_joined(const MappingDevice& on, CUdeviceptr at, std::size_t handle_bytes,
                    const MappingHandles& handles, std::size_t from, std::size_t count,
                    MappingTimes* times) {
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, on.device};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const Timer mapping;
  for (std::size_t i = 0; i < count; ++i) {
    KVSHIM_BENCH_CHECK(cuMemMap(at + i * handle_bytes, handle_bytes, 0, handles[from + i], 0));
  }
  times->map += mapping.microseconds();
  const Timer opening;
  const CUresult result = cuMemSetAccess(at, count * handle_bytes, &access, 1);
  times->access += opening.microseconds();
  return result;
}

CUresult unmap_timed(CUdeviceptr at, std::size_t bytes, MappingTimes* times) {
  const Timer timer;
  const CUresult result = cuMemUnmap(at, bytes);
  times->unmap += timer.microseconds();
  return result;
}

}  // namespace kvshim::bench
