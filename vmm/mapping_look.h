// Driver calls that look at mappings, and swaps of those mappings, kept apart.
#pragma once

#include <cuda.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <span>

namespace kvshim::vmm {

struct AddressRange {
  CUdeviceptr begin = 0, end = 0;
  bool meets(const AddressRange& other) const { return begin < other.end && other.begin < end; }
};

/// Lives around a driver call of any thread that looks, on the host, at the mappings of pool
/// addresses: a copy, a fill, a node of one. The driver does not expect them to change meanwhile:
/// cuMemsetD8Async crashed in 13 of 92 processes in which a fault swapped the range that it was
/// given (measured: docs/results/driver_semantics.md).
///
/// Making one waits for a swap of these addresses that is under way; a swap that is to begin waits
/// until the call has returned, or has got past its look: a call may wait for the GPU, and the GPU
/// for the swap. No lock is held meanwhile.
class MappingLook {
 public:
  /// Empty `ranges`: nobody knows at which it looks. They outlive this.
  explicit MappingLook(std::span<const AddressRange> ranges);
  ~MappingLook();
  MappingLook(const MappingLook&) = delete;
  MappingLook& operator=(const MappingLook&) = delete;

 private:
  friend class MappingSwap;
  bool meets(const AddressRange& range) const;
  /// Asked by a swap that waits, again and again.
  bool gets_past();

  const std::span<const AddressRange> ranges_;
  std::chrono::nanoseconds needs_{0};  // of its thread's own time
  clockid_t cpu_clock_ = CLOCK_MONOTONIC;
  bool has_cpu_clock_ = false;
  std::chrono::nanoseconds cpu_begin_{0};
  std::chrono::steady_clock::time_point asked_;  // when a swap asked last
  std::chrono::nanoseconds waited_for_{0};
  bool past_ = false;
};

/// Lives around the swap of some mappings. Any thread; several swaps may be under way.
class MappingSwap {
 public:
  explicit MappingSwap(const AddressRange& range);
  ~MappingSwap();
  MappingSwap(const MappingSwap&) = delete;
  MappingSwap& operator=(const MappingSwap&) = delete;

 private:
  friend class MappingLook;
  const AddressRange range_;
};

}  // namespace kvshim::vmm
