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

// NOLINTBEGIN(bugprone-macro-parentheses): names, not expressions.

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

/// The table once it was found. REQUIRES an active shim, or an earlier real() that
/// found it.
inline const RealDriver& found_driver() noexcept {
  return *real_driver_detail::found.load(std::memory_order_acquire);
}

/// Rows of entry_points.def, counted from 0.
inline constexpr int kEntryPointCount = 0
#define KVSHIM_ENTRY_POINT(name, role, area, note) +1
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT
    ;
// NOLINTEND(bugprone-macro-parentheses)

/// The row whose real function has this address (the first, where the driver
/// gives several names to one), or -1. No lock, no allocation once found.
int entry_point_row(const void* real_function) noexcept;
/// The row of this exact export name, or -1. Needs no driver.
int entry_point_named(const char* name) noexcept;
/// REQUIRES 0 <= row < kEntryPointCount. The function is null where missing.
void* real_function_of_row(int row) noexcept;
const char* entry_point_name(int row) noexcept;

}  // namespace kvshim::preload
