// The arithmetic of the private view of a GPU's memory, for whoever asks without a
// context. cuMemGetInfo's own is vmm::DeviceMemory::memory_info: the same rules.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kvshim::preload {

class Runtime;

/// In what the engine's view of a GPU differs from the driver's, bytes.
struct ViewDifference {
  std::uint64_t pools = 0;      // of this process, at full size
  std::uint64_t held = 0;       // on the GPU, by them and by kvshim's caches
  std::uint64_t elsewhere = 0;  // the same of neighbours
  std::uint64_t limit = 0;      // of this process; 0: none
  std::uint64_t other = 0;      // of this process, no pool

  bool operator==(const ViewDifference&) const = default;
  bool nothing() const { return pools == 0 && held == 0 && elsewhere == 0 && limit == 0; }
};

struct MemorySeen {
  std::uint64_t free = 0, total = 0;  // bytes
};

/// What an engine is to see where the driver sees `driver`: own pools at full size, the
/// neighbours' not at all, the limit as the total. Free never exceeds total.
MemorySeen private_view(MemorySeen driver, const ViewDifference& difference) noexcept;

/// Of now. REQUIRES cuInit succeeded. Needs no current context; below a millisecond. May
/// throw std::bad_alloc.
ViewDifference view_difference(const Runtime& runtime, CUdevice device);

}  // namespace kvshim::preload
