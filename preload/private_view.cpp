#include "preload/private_view.h"

#include <algorithm>

#include "preload/neighbours.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"

namespace kvshim::preload {
namespace {

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from > what ? from - what : 0; }

}  // namespace

MemorySeen private_view(MemorySeen driver, const ViewDifference& difference) noexcept {
  MemorySeen seen = driver;
  std::uint64_t without_pools =
      std::min(driver.free + difference.held + difference.elsewhere, driver.total);
  if (difference.limit != 0) {
    seen.total = std::min(driver.total, difference.limit);
    without_pools = std::min(without_pools, less(seen.total, difference.other));
  }
  seen.free = less(without_pools, difference.pools);
  return seen;
}

ViewDifference view_difference(const Runtime& runtime, CUdevice index) {
  ViewDifference difference;
  difference.elsewhere = elastic_elsewhere(runtime, index);
  difference.other = plain_bytes(index);
  if (const DeviceRuntime* device = runtime.device(index)) {
    const vmm::PhysicalBytes held = device->memory.physical();
    difference.held = held.device + held.zero;
    for (const vmm::PoolFigures& pool : device->memory.pools()) {
      difference.pools += pool.resident + pool.parked + pool.absent;
    }
    const vmm::Limits& limits = device->memory.limits();
    difference.limit = std::max(limits.limit.load(), limits.shown.load());
    difference.other += limits.shown_taken.load();
    return difference;
  }
  std::size_t total = 0;
  if (real().cuDeviceTotalMem_v2 != nullptr &&
      real().cuDeviceTotalMem_v2(&total, index) == CUDA_SUCCESS) {
    difference.limit = runtime.options().limit.of(total);
  }
  return difference;
}

}  // namespace kvshim::preload
