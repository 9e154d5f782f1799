// From a launch's or a graph node's arguments to a kernel operation.
#pragma once

#include "tests/simulator/operations.h"

namespace kvshim::simulator {

/// `function` may be a CUkernel in disguise, as cuLaunchKernel allows. Fails
/// with INVALID_HANDLE, INVALID_VALUE or NO_BINARY_FOR_GPU (the simulator has
/// no host function of that name).
CUresult describe_launch(CUfunction function, const unsigned grid[3], const unsigned block[3],
                         unsigned shared_bytes, void** kernel_params, void** extra,
                         KernelOperation* launch);

}  // namespace kvshim::simulator
