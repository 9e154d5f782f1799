// How much GPU memory pools may still take.
#pragma once

#include <cstdint>

#include "vmm/driver.h"
#include "vmm/limits.h"
#include "vmm/mapper.h"
#include "vmm/pressure.h"

namespace kvshim::vmm {

/// What is free above the floor, and within the process's limit. All figures are bytes. Not
/// thread-safe: under the owning DeviceMemory's mutex. The device's context must be current
/// where the driver may be asked: in take() and lacks().
class GpuRoom {
 public:
  GpuRoom(const DriverApi& driver, const Mapper& mapper, const Limits& limits,
          const Pressure* neighbours)
      : driver_(driver), mapper_(mapper), limits_(limits), neighbours_(neighbours) {}

  /// What pools leave free, for the engines' own allocations.
  void set_floor(std::uint64_t bytes) { floor_ = bytes; }
  std::uint64_t floor() const { return floor_; }
  /// What the driver said last, less what was taken since.
  std::uint64_t free_estimate() const { return free_; }

  bool within_limit(std::uint64_t bytes) const;
  /// Sets `bytes` of what is free apart for the caller, who makes that memory now. False: there is
  /// no room, or the limit stands against it; nothing was set apart.
  bool take(std::uint64_t bytes);
  /// take() was for nothing.
  void give_back(std::uint64_t bytes) { free_ += bytes; }
  /// After take(): whether so much is left for others.
  bool leaves(std::uint64_t bytes) const { return free_ >= floor_ + bytes; }
  /// Whether the GPU has no room for `bytes` (> 0) besides what is `set_apart`. False when the
  /// limit is what stands against it: nobody could help.
  bool lacks(std::uint64_t bytes, std::uint64_t set_apart);
  /// The same where there is a neighbour who could make room.
  bool neighbours_may_make(std::uint64_t bytes);
  /// Memory was released: the driver knows better.
  void look_again() { read_at_ = 0; }

 private:
  void read(std::uint64_t bytes);

  const DriverApi& driver_;
  const Mapper& mapper_;
  const Limits& limits_;
  const Pressure* const neighbours_;
  std::uint64_t free_ = 0;
  std::uint64_t floor_ = 0;
  std::uint64_t read_at_ = 0;  // steady microseconds; 0: never
};

}  // namespace kvshim::vmm
