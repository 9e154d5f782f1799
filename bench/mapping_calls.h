// The driver's mapping calls with the time that they take, for benchmarks without the shim.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <vector>

namespace kvshim::bench {

struct MappingKind {
  const char* name;
  CUmemLocationType location;
};

/// The first GPU with its primary context, which is current in the calling thread.
struct MappingDevice {
  MappingDevice();
  CUdevice device = 0;
  CUcontext context = nullptr;
  int numa_node = 0;
};

using MappingHandles = std::vector<CUmemGenericAllocationHandle>;

/// Handles of `handle_bytes` that hold `total` bytes together; none when the driver makes
/// none of that kind. Released by release_handles().
MappingHandles make_handles(const MappingDevice& on, CUmemLocationType location,
                            std::size_t handle_bytes, std::size_t total);
void release_handles(MappingHandles* handles);

/// Microseconds, sums.
struct MappingTimes {
  double map = 0, access = 0, unmap = 0;
};

/// Maps handles [from, from + count) side by side at `at`, and opens them with one call.
/// What the driver says to the call that opens: nothing else may fail (the process ends).
CUresult map_joined(const MappingDevice& on, CUdeviceptr at, std::size_t handle_bytes,
                    const MappingHandles& handles, std::size_t from, std::size_t count,
                    MappingTimes* times);
CUresult unmap_timed(CUdeviceptr at, std::size_t bytes, MappingTimes* times);

}  // namespace kvshim::bench
