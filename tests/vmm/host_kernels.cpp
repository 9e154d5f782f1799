#include "tests/vmm/host_kernels.h"

#include <cstring>

#include "tests/vmm/fake_driver.h"
#include "vmm/kernels/guard.cuh"
#include "vmm/kernels/mark.cuh"
#include "vmm/kernels/scan.cuh"

namespace kvshim::vmm::testing {
namespace {

template <class Params, void (*kernel)(Params)>
HostLaunch prepare(const void* params) {
  Params copy;
  std::memcpy(&copy, params, sizeof copy);
  HostLaunch launch;
  launch.guard =
      std::is_same_v<Params, LinearGuardParams> || std::is_same_v<Params, FixedGuardParams>;
  if constexpr (std::is_same_v<Params, ScanParams>) {
    for (std::uint32_t i = 0; i < copy.range_count; ++i) {
      launch.ranges.push_back(
          {copy.ranges[i].source, copy.ranges[i].source + copy.ranges[i].bytes});
    }
  }
  launch.run = [copy](std::uint32_t grid_x, std::uint32_t grid_y) {
    for (std::uint32_t y = 0; y < grid_y; ++y) {
      for (std::uint32_t x = 0; x < grid_x; ++x) {
        kernel_env::host_block.x = x;
        kernel_env::host_block.y = y;
        kernel_env::host_block.count_x = grid_x;
        kernel(copy);
      }
    }
  };
  return launch;
}

constexpr HostKernel kKernels[] = {
    {kLinearGuardName, prepare<LinearGuardParams, kvshim_guard_linear>},
    {kFixedGuardName, prepare<FixedGuardParams, kvshim_guard_fixed>},
    {kScanName, prepare<ScanParams, kvshim_scan>},
    {kClearName, prepare<ClearParams, kvshim_clear_present>},
    {kMarkName, prepare<MarkParams, kvshim_mark_read>},
    {kTakeName, prepare<TakeParams, kvshim_take_marks>},
};

}  // namespace

const HostKernel* find_host_kernel(const char* name) {
  for (const HostKernel& kernel : kKernels) {
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

}  // namespace kvshim::vmm::testing
