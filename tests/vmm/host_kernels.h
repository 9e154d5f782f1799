// The mechanism's kernels as host functions, found by name.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace kvshim::vmm::testing {

struct Range;

struct HostLaunch {
  std::vector<Range> ranges;  // of pool memory that the launch will touch
  bool guard = false;
  std::function<void(std::uint32_t grid_x, std::uint32_t grid_y)> run;
};

struct HostKernel {
  const char* name;
  /// Copies the parameter structure, as a launch does.
  HostLaunch (*prepare)(const void* params);
};

/// Null when there is no such kernel.
const HostKernel* find_host_kernel(const char* name);

}  // namespace kvshim::vmm::testing
