// The end of pools.
#pragma once

#include <cuda.h>

#include "preload/gate.h"
#include "preload/runtime.h"

namespace kvshim::preload {

/// The live pool that begins at `address`, or null. Any thread, as find_pool().
const vmm::PoolRecord* pool_at_base(CUdeviceptr address);

/// As cuMemFree: waits for all that its context has to do; during a capture, for all pool
/// work of its GPU. What of that can't be waited for (lost streams, another pool's guard that
/// takes more than a second to copy this one's pages) the pool outlives: finish_deferred_frees().
CUresult free_pool(Runtime& runtime, const vmm::PoolRecord& record);

/// As cuMemFreeAsync: waits as a submission does, for no work of the GPU. In a capture it is
/// `refuse` that answers.
CUresult free_pool_in_order(Runtime& runtime, const vmm::PoolRecord& record, StreamRef stream,
                            SubmitRef refuse);

/// Lets pools go whose free has come. Any thread; waits, at most, for a release under way.
/// REQUIRES: the thread's capture mode is relaxed.
void finish_deferred_frees() noexcept;

}  // namespace kvshim::preload
