#include "preload/giving.h"

#include <algorithm>
#include <tuple>

namespace kvshim::preload {
namespace {

// The driver rounds allocations up and cuts small ones from 2 MiB blocks.
constexpr std::uint64_t kPlainMargin = std::uint64_t{4} << 20;

}  // namespace

bool served_before(const NeedSeen& a, const NeedSeen& b) noexcept {
  const bool a_plain = a.kind == NeedSeen::Kind::kPlain, b_plain = b.kind == NeedSeen::Kind::kPlain;
  return std::tuple(!a_plain, -a.priority, a.posted_ns) <
         std::tuple(!b_plain, -b.priority, b.posted_ns);
}

std::uint64_t uncovered(std::span<const NeedSeen> needs, std::uint64_t gpu_free,
                        std::uint64_t floor, std::uint64_t idle_ms) noexcept {
  std::uint64_t wanted = 0;
  bool pools = false;
  for (const NeedSeen& need : needs) {
    if (need.kind == NeedSeen::Kind::kRestore && idle_ms < kLeastIdleForRestoreMs) continue;
    if (need.kind == NeedSeen::Kind::kPlain) {
      wanted += need.bytes + kPlainMargin;
    } else {
      wanted += need.bytes;
      pools = true;
    }
  }
  if (pools) wanted += floor;
  return wanted > gpu_free ? wanted - gpu_free : 0;
}

std::uint64_t givers_before(const GiverSeen& us, std::span<const GiverSeen> others) noexcept {
  const auto order = [](const GiverSeen& giver) {
    return std::tuple(giver.priority, UINT64_MAX - giver.idle_ms, giver.index);
  };
  return static_cast<std::uint64_t>(
      std::count_if(others.begin(), others.end(), [&](const GiverSeen& other) {
        return other.spare != 0 && other.idle_ms >= kLeastIdleMs && order(other) < order(us);
      }));
}

}  // namespace kvshim::preload
