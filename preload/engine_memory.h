// GPU memory that the engine gets by other ways than cuMemAlloc: handles of its own
// (PyTorch's expandable segments, sleep modes), arrays, what stream-ordered pools keep in
// reserve. All of it goes into plain_bytes() (plain_memory.h): figures and limits count it.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

// Handles. Memory lives as long as a handle or a mapping names it. Releases and unmappings
// are told before the driver is asked: afterwards another thread may get the same number.
// Handles that were never counted (imported, made before the shim was active) change
// nothing. Any thread; a hash table's time.
void count_created(CUmemGenericAllocationHandle handle, const CUmemAllocationProp& properties,
                   std::size_t bytes) noexcept;
void count_retained(CUmemGenericAllocationHandle handle) noexcept;
void count_released(CUmemGenericAllocationHandle handle) noexcept;
void count_mapped(CUdeviceptr address, std::size_t bytes,
                  CUmemGenericAllocationHandle handle) noexcept;
/// All mappings that begin in the range.
void count_unmapped(CUdeviceptr address, std::size_t bytes) noexcept;

/// Bytes of an array, or of all levels of a mipmapped one, without the driver's rounding;
/// 0 where memory comes later (sparse, deferred mapping).
std::uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& array, unsigned levels = 1) noexcept;
/// Of the current context; `array`: a CUarray or a CUmipmappedArray.
void count_array(const void* array, std::uint64_t bytes) noexcept;
void uncount_array(const void* array) noexcept;
/// What a context takes along when it ends.
void uncount_arrays_of(CUcontext context) noexcept;

/// Takes note of what the device's default stream-ordered pool holds beyond what is
/// allocated from it. Asks the driver: for housekeeping, about once a second.
void look_at_pool_reserve(CUdevice device) noexcept;

void forget_engine_memory_after_fork() noexcept;

}  // namespace kvshim::preload
