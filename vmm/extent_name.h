// How extents are named by those who work on them without the memory's lock.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/guard_abi.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// One extent named from outside the lock; may be stale when used: every call
/// that takes one checks that pool, extent and state still fit.
struct ExtentName {
  std::uint64_t pool = 0;
  std::uint32_t offset = 0;  // granules
  std::uint8_t order = 0;
  CUdeviceptr address = 0;
  /// Holds the pool's last granule, whose end an allocator may have handed to
  /// other tensors: no rule about idle cache contents may drop it.
  bool tail = false;
  std::uint64_t written = 0;  // Extent::written_serial; the newest of a block
  bool front = false;         // the next writes come here, or a writer's first slot lies here
  bool next_write = false;    // the next writes come here
  /// A scan looked at each granule by itself: it is parked in parts. And those (bit 0: the first
  /// one) of which it found all bytes zero. True until new work comes.
  bool by_granule = false;
  std::uint16_t zero_granules = 0;
  bool cold = false;          // to be parked as cold (Extent::cold)
  std::uint64_t touched = 0;  // Extent::parked_tick
  std::uint64_t used = 0;     // Extent::used_tick; the newest of a block
  std::uint64_t bytes() const { return order_bytes(order); }
};

inline std::uint64_t total_bytes(std::span<const ExtentName> extents) {
  std::uint64_t sum = 0;
  for (const ExtentName& extent : extents) sum += extent.bytes();
  return sum;
}

/// Memory for a part of a block, with what its contents are copied to. Without a handle: it
/// was found zero, and becomes absent.
struct PreparedPart {
  std::uint8_t order = 0;
  CUmemGenericAllocationHandle handle = 0;
  CUdeviceptr staging = 0;  // where the copy goes
};

/// A copy of an extent's contents that waits to replace it. The extent may be a
/// block: adjacent extents that become one, or one that is parked in several parts.
struct PreparedPark {
  ExtentName extent;
  std::vector<PreparedPart> parts;  // by address, all of the block; one when it comes back
  /// Of what becomes absent.
  std::uint64_t zero_bytes() const {
    std::uint64_t sum = 0;
    for (const PreparedPart& part : parts) sum += part.handle == 0 ? order_bytes(part.order) : 0;
    return sum;
  }
  /// What is to be copied, a part each.
  std::vector<AbiCopy> copies() const {
    std::vector<AbiCopy> all;
    CUdeviceptr from = extent.address;
    for (const PreparedPart& part : parts) {
      if (part.handle != 0) all.push_back({from, part.staging, order_bytes(part.order)});
      from += order_bytes(part.order);
    }
    return all;
  }
};

enum class Preparation {
  kDone,
  kSplit,    // not as a whole: its halves may be had
  kNoRoom,   // neither as a whole nor in parts: budget, host memory, GPU memory
  kRefused,  // the driver maps nothing more: it stays as it is
  kChanged,  // the extents are others by now: nothing to do
};

}  // namespace kvshim::vmm
