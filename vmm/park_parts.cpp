#include "vmm/park_parts.h"

#include <algorithm>

namespace kvshim::vmm {
namespace {

enum class Contents : std::uint8_t { kZero, kWritten, kLastWritten };

bool is_zero(const ExtentName& extent, std::uint32_t granule) {
  return (extent.zero_granules >> granule & 1) != 0;
}

}  // namespace

std::uint32_t written_granules(const ExtentName& extent) {
  std::uint32_t end = order_granules(extent.order);
  while (end != 0 && is_zero(extent, end - 1)) --end;
  return end;
}

std::vector<ParkPart> parts_of(const ExtentName& extent, std::uint8_t largest) {
  const std::uint32_t written = written_granules(extent);
  std::vector<Contents> all(order_granules(extent.order), Contents::kWritten);
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    if (is_zero(extent, i)) all[i] = Contents::kZero;
  }
  if (written != 0) all[written - 1] = Contents::kLastWritten;
  std::vector<ParkPart> parts;
  for (auto begin = all.begin(); begin != all.end();) {
    const bool zero = *begin == Contents::kZero;
    std::uint8_t order = zero ? extent.order : std::min(extent.order, largest);
    // An extent is aligned to its size, so its parts may be aligned within it.
    const auto fits = [&] {
      const auto at = static_cast<std::uint32_t>(begin - all.begin());
      const std::uint32_t count = order_granules(order);
      return at % count == 0 && at + count <= all.size() &&
             std::all_of(begin, begin + count, [&](Contents each) { return each == *begin; });
    };
    while (order != 0 && !fits()) --order;
    parts.push_back({order, zero});
    begin += order_granules(order);
  }
  return parts;
}

}  // namespace kvshim::vmm
