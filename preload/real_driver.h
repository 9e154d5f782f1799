// The real driver's functions, found in the libcuda.so.1 that the process loaded.
//
// Names: preload/ sees cuda.h as the driver's own sources do
// (__CUDA_API_VERSION_INTERNAL, defined for the whole target by CMake), so every
// name is exactly the exported one: `cuMemAlloc` is the 32-bit first generation,
// `cuMemAlloc_v2` today's, `cuMemcpyAsync_ptsz` the per-thread default stream's.
#pragma once

#include <cuda.h>

#include <atomic>

#ifdef cuMemAlloc
#error "compile with -D__CUDA_API_VERSION_INTERNAL (the target kvshim_preload_names gives it)"
#endif

namespace kvshim::preload {

/// Null where the loaded driver lacks the function (an older driver).
struct RealDriver {
#define KVSHIM_ENTRY_POINT(name, role, area, note) decltype(&::name) name = nullptr;
#define KVSHIM_CALLED(name) decltype(&::name) name = nullptr;
#include "preload/called_only.def"
#include "preload/entry_points.def"
#undef KVSHIM_CALLED
#undef KVSHIM_ENTRY_POINT
};

namespace real_driver_detail {
extern std::atomic<const RealDriver*> found;
const RealDriver& find() noexcept;
}  // namespace real_driver_detail

/// The table; all null while the process has not loaded libcuda.so.1 (then the
/// next call looks again). Once found it never changes and is never freed. Any
/// thread; takes no lock of ours: the first call may take the dynamic loader's.
/// Never loads libcuda itself.
inline const RealDriver& real() noexcept {
  const RealDriver* table = real_driver_detail::found.load(std::memory_order_acquire);
  return table != nullptr ? *table : real_driver_detail::find();
}

/// The exported wrapper for a real function's address, or null when that
/// function is not intercepted. Any thread, no lock, no allocation once found.
void* hook_for(void* real_function) noexcept;

}  // namespace kvshim::preload
