// One reservation of addresses per process from which all pools are cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>

#include "vmm/driver.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// Pools start at multiples of 32 MiB (so that extents of every order are
/// aligned), never at a multiple of 4 GiB (small integers in a row must not
/// look like a pool's base), and a gap of 32 MiB follows each, so that an
/// end pointer never lies in the next pool. Thread-safe.
class Arena {
 public:
  /// Reserves `bytes` (rounded up to 32 MiB) at a high hint. When the driver
  /// gives an address below 2^41, or refuses, tries half the size down
  /// to 64 GiB. Nothing on failure (`*error` tells). Must be called outside
  /// the driver's "deinitialized" state; makes one driver call per try.
  static std::optional<Arena> reserve(const DriverApi& driver, std::size_t bytes, CUresult* error);

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena() = default;  // leaked on purpose: the driver may be gone at exit

  CUdeviceptr base() const { return base_; }
  std::size_t bytes() const { return bytes_; }
  std::uint32_t granules() const { return static_cast<std::uint32_t>(bytes_ >> kGranuleShift); }
  CUdeviceptr address(GranuleIndex granule) const {
    return base_ + (static_cast<std::uint64_t>(granule) << kGranuleShift);
  }
  GranuleIndex granule(CUdeviceptr address) const {
    return static_cast<GranuleIndex>((address - base_) >> kGranuleShift);
  }

  /// First fit over free ranges. Nothing when the arena is full.
  std::optional<GranuleIndex> take(std::uint32_t granules);
  /// Gives a range back that take() returned with the same length.
  void give_back(GranuleIndex first, std::uint32_t granules);

 private:
  Arena(CUdeviceptr base, std::size_t bytes);
  CUdeviceptr base_;
  std::size_t bytes_;
  std::mutex mutex_;
  std::map<GranuleIndex, std::uint32_t> free_;  // start -> length, in granules, never adjacent
};

}  // namespace kvshim::vmm
