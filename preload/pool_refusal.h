// The answer to requests that a pool can't serve because it is made of many
// physical handles: the driver's error, and one line in the log that says what
// was refused and which rule would keep such an allocation from becoming a pool.
#pragma once

#include <cuda.h>

#include <cstddef>

#include "preload/gate.h"
#include "preload/hook_boundary.h"

namespace kvshim::preload {

/// Logs (once for each entry point and pool) and returns `result`.
CUresult refuse_pool(const char* entry_point, const PoolView& pool, const char* what,
                     CUresult result = CUDA_ERROR_INVALID_VALUE);

/// Forwards, unless the range meets a pool: then refuses. `call` is the real
/// function.
template <class Call>
CUresult forward_unless_pool(const char* entry_point, CUdeviceptr address, std::size_t bytes,
                             const char* what, Call call) noexcept {
  if (!meets_arena(address, bytes)) return call();
  return at_boundary([&] {
    const auto pools = pools_in(address, bytes != 0 ? bytes : 1);
    return pools.empty() ? call() : refuse_pool(entry_point, pools.front(), what);
  });
}

}  // namespace kvshim::preload
