// CU_POINTER_ATTRIBUTE_SYNC_MEMOPS of pools. The driver keeps this flag with an
// allocation; a pool is many mappings that come and go, so it is kept here.
#pragma once

#include <span>

#include "preload/gate.h"

namespace kvshim::preload {

/// Sets or clears the flag of a pool. Any thread.
void set_sync_memops(const PoolView& pool, bool on);
bool sync_memops(const PoolView& pool) noexcept;

/// After a synchronous memory operation that the driver may have left running
/// (device to device copies, fills): waits for it when it touched a pool with the
/// flag. Costs one load while no pool has it.
CUresult finish_sync_memop(StreamRef stream, std::span<const Access> accesses, CUresult result);

}  // namespace kvshim::preload
