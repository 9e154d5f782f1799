// Addresses at which a new handle is mapped while contents are copied into it.
#pragma once

#include <optional>
#include <vector>

#include "vmm/driver.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// A reservation of equal slots of the largest extent's size, outside the
/// arena (its addresses must not look like pool addresses). Reserved at first
/// use. Under the owning DeviceMemory's mutex.
class Staging {
 public:
  Staging(const DriverApi& driver, std::size_t slots) : driver_(driver), slots_(slots) {}

  /// A free slot's address; nothing when all are taken or none could be reserved.
  std::optional<CUdeviceptr> take() {
    if (base_ == 0) {
      const std::size_t bytes = slots_ * order_bytes(kMaxOrder);
      if (driver_.cuMemAddressReserve(&base_, bytes, order_bytes(kMaxOrder), 0, 0) !=
          CUDA_SUCCESS) {
        base_ = 0;
        return std::nullopt;
      }
      for (std::size_t i = slots_; i-- > 0;) free_.push_back(base_ + i * order_bytes(kMaxOrder));
    }
    if (free_.empty()) return std::nullopt;
    const CUdeviceptr slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give_back(CUdeviceptr slot) { free_.push_back(slot); }
  /// Gives the reservation up; only when no slot is taken.
  void release() {
    if (base_ == 0 || free_.size() != slots_) return;
    driver_.cuMemAddressFree(base_, slots_ * order_bytes(kMaxOrder));
    base_ = 0;
    free_.clear();
  }

 private:
  const DriverApi& driver_;
  const std::size_t slots_;
  CUdeviceptr base_ = 0;
  std::vector<CUdeviceptr> free_;
};

}  // namespace kvshim::vmm
