#include "vmm/arena.h"

#include <cassert>
#include <iterator>

namespace kvshim::vmm {
namespace {

constexpr CUdeviceptr kHint = 0x6000'0000'0000;
constexpr CUdeviceptr kLowestGoodAddress = CUdeviceptr{1} << 40;
constexpr std::size_t kSmallest = std::size_t{64} << 30;
constexpr std::uint32_t kUnit = order_granules(kMaxOrder);
constexpr std::uint64_t kFourGiB = std::uint64_t{4} << 30;

std::uint32_t round_up_to_unit(std::uint32_t granules) {
  return (granules + kUnit - 1) / kUnit * kUnit;
}
// A pool and the gap after it.
std::uint32_t footprint(std::uint32_t granules) { return round_up_to_unit(granules) + kUnit; }

}  // namespace

std::optional<Arena> Arena::reserve(const DriverApi& driver, std::size_t bytes, CUresult* error) {
  const std::size_t unit = order_bytes(kMaxOrder);
  std::size_t size = (bytes + unit - 1) / unit * unit;
  for (;;) {
    CUdeviceptr address = 0;
    *error = driver.cuMemAddressReserve(&address, size, unit, kHint, 0);
    if (*error == CUDA_SUCCESS) {
      // A low address would make two neighbouring int32 block ids look like a
      // pool address (facts: the driver's default is 0x100_0400_0000).
      if (address >= kLowestGoodAddress * 2) return Arena(address, size);
      driver.cuMemAddressFree(address, size);
      *error = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (size <= kSmallest || size / 2 < kSmallest) return std::nullopt;
    size /= 2;
  }
}

Arena::Arena(CUdeviceptr base, std::size_t bytes) : base_(base), bytes_(bytes) {
  free_.emplace(0, granules());
}

Arena::Arena(Arena&& other) noexcept
    : base_(other.base_), bytes_(other.bytes_), free_(std::move(other.free_)) {}

std::optional<GranuleIndex> Arena::take(std::uint32_t wanted) {
  const std::uint32_t need = footprint(wanted);
  std::lock_guard lock(mutex_);
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const GranuleIndex range = it->first;
    const std::uint32_t length = it->second;
    GranuleIndex start = range;
    if (address(start) % kFourGiB == 0) start += kUnit;
    const std::uint32_t skipped = start - range;
    if (skipped + need > length) continue;
    free_.erase(it);
    if (skipped != 0) free_.emplace(range, skipped);
    if (length > skipped + need) free_.emplace(start + need, length - skipped - need);
    return start;
  }
  return std::nullopt;
}

void Arena::give_back(GranuleIndex first, std::uint32_t granules) {
  std::uint32_t length = footprint(granules);
  std::lock_guard lock(mutex_);
  auto next = free_.lower_bound(first);
  if (next != free_.begin()) {
    auto before = std::prev(next);
    assert(before->first + before->second <= first);
    if (before->first + before->second == first) {
      first = before->first;
      length += before->second;
      free_.erase(before);
    }
  }
  if (next != free_.end() && first + length == next->first) {
    length += next->second;
    free_.erase(next);
  }
  free_.emplace(first, length);
}

}  // namespace kvshim::vmm
