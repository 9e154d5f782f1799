// Allocations that are not handles: cuMemAlloc and relatives, host memory.
#pragma once

#include "tests/simulator/contexts.h"

namespace kvshim::simulator {

/// Device memory for cuMemAlloc, pools and graph nodes: 0 on success. Memory
/// of 1 MiB and more is charged in 2 MiB units of its own; smaller pieces
/// share 2 MiB slabs.
CUresult allocate_device(Context* context, std::size_t bytes, CUmemoryPool pool,
                         CUdeviceptr* address);
/// The same for an allocation node: graphs may free it.
CUresult allocate_for_graph(Context* context, std::size_t bytes, CUdeviceptr* address);
/// Gives it back at once; INVALID_VALUE when `address` is not its start.
CUresult free_device(CUdeviceptr address);
/// Everything allocated in the context.
void free_memory_of(Context* context);

}  // namespace kvshim::simulator
