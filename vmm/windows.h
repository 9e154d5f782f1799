// Addresses at which host slabs are mapped while contents are copied to them, and ahead of it.
#pragma once

#include <array>
#include <vector>

#include "vmm/driver.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// Slots of each order, outside the arena (their addresses must not look like pool
/// addresses), reserved a chunk at a time. Under the owning DeviceMemory's mutex.
class Windows {
 public:
  explicit Windows(const DriverApi& driver) : driver_(driver) {}

  /// A free slot's address; 0 when none could be reserved.
  CUdeviceptr take(unsigned order) {
    std::vector<CUdeviceptr>& free = free_[order];
    if (free.empty()) {
      CUdeviceptr chunk = 0;
      if (driver_.cuMemAddressReserve(&chunk, kChunk, order_bytes(kMaxOrder), 0, 0) !=
          CUDA_SUCCESS) {
        return 0;
      }
      chunks_.push_back(chunk);
      for (std::size_t at = kChunk; at != 0; at -= order_bytes(order)) {
        free.push_back(chunk + at - order_bytes(order));
      }
    }
    const CUdeviceptr slot = free.back();
    free.pop_back();
    ++taken_;
    return slot;
  }
  /// REQUIRES: nothing is mapped there.
  void give_back(unsigned order, CUdeviceptr slot) {
    free_[order].push_back(slot);
    --taken_;
  }
  /// How many slots are not free; one that could not be unmapped never is again.
  std::size_t taken() const { return taken_; }
  /// Gives the reservations up, if no slot is taken.
  void release() {
    if (taken_ != 0) return;
    for (const CUdeviceptr chunk : chunks_) driver_.cuMemAddressFree(chunk, kChunk);
    chunks_.clear();
    for (auto& free : free_) free.clear();
  }

 private:
  static constexpr std::size_t kChunk = 8 * order_bytes(kMaxOrder);
  const DriverApi& driver_;
  std::array<std::vector<CUdeviceptr>, kOrders> free_;
  std::vector<CUdeviceptr> chunks_;
  std::size_t taken_ = 0;
};

}  // namespace kvshim::vmm
