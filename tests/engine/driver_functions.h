// The driver as the engine sees it: a table filled in one of three ways.
#pragma once

#include <cuda.h>

#include "tests/engine/options.h"

namespace kvshim::engine {

// A table.
// clang-format off
#define KVSHIM_ENGINE_DRIVER_FUNCTIONS(X) \
  X(cuInit) X(cuDeviceGet) X(cuDeviceGetName) X(cuDevicePrimaryCtxRetain) \
  X(cuDevicePrimaryCtxRelease) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuGetErrorName) \
  X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree) X(cuMemHostAlloc) X(cuMemFreeHost) \
  X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoH) X(cuModuleLoadData) \
  X(cuModuleGetFunction) X(cuModuleUnload) X(cuLaunchKernel) X(cuStreamCreate) \
  X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamBeginCapture) X(cuStreamEndCapture) \
  X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy)
// clang-format on

struct DriverFunctions {
#define KVSHIM_ENGINE_MEMBER(name) decltype(&::name) name##_ = nullptr;
  KVSHIM_ENGINE_DRIVER_FUNCTIONS(KVSHIM_ENGINE_MEMBER)
#undef KVSHIM_ENGINE_MEMBER
};

/// Ends the process with 1 and a message when something can't be found.
const DriverFunctions& reach_driver(EntryWay way);
const DriverFunctions& driver();

/// Ends the process with 1 and a line that names the call, unless it succeeded.
void check(CUresult result, const char* call);
#define ENGINE_CALL(function, ...) \
  ::kvshim::engine::check(::kvshim::engine::driver().function##_(__VA_ARGS__), #function)

}  // namespace kvshim::engine
