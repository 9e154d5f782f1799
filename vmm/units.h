// Units of memory shared by every layer: bytes, granules, extent orders.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvshim::vmm {

/// The unit of residency: the smallest mapping the driver offers on every GPU
/// measured (docs/results: granularity 2 MiB on H100, driver 580).
inline constexpr std::size_t kGranuleBytes = std::size_t{2} << 20;
inline constexpr unsigned kGranuleShift = 21;

/// An extent holds 2^order granules. Order 4 (32 MiB) is the largest: the
/// price of a mapping is per handle, and larger ones cost more to split.
inline constexpr unsigned kMaxOrder = 4;
inline constexpr unsigned kOrders = kMaxOrder + 1;

/// Index of a granule counted from the arena's base.
using GranuleIndex = std::uint32_t;

/// A half-open run of granules [first, first + count).
struct GranuleRun {
  GranuleIndex first = 0;
  std::uint32_t count = 0;
  friend bool operator==(const GranuleRun&, const GranuleRun&) = default;
};

constexpr std::size_t order_bytes(unsigned order) { return kGranuleBytes << order; }
constexpr std::uint32_t order_granules(unsigned order) { return std::uint32_t{1} << order; }

constexpr std::size_t round_up_to_granule(std::size_t bytes) {
  return (bytes + kGranuleBytes - 1) & ~(kGranuleBytes - 1);
}

}  // namespace kvshim::vmm
