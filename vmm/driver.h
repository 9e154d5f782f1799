// The seam between the mechanism and the driver: one struct of driver
// functions. vmm/ calls nothing else of CUDA, so it links without libcuda and
// runs on the real driver, on the simulator and on a null driver in tests.
#pragma once

#include <cuda.h>

namespace kvshim::vmm {

/// Every member is the real driver's function (never one of the shim's own
/// wrappers); all are set before a DriverApi is used. Immutable afterwards.
struct DriverApi {
// clang-format off
#define KVSHIM_VMM_DRIVER_FUNCTIONS(X)                                                          \
  X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemCreate) X(cuMemRelease) X(cuMemMap)         \
  X(cuMemUnmap) X(cuMemSetAccess) X(cuMemGetAllocationGranularity) X(cuMemGetInfo_v2)           \
  X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemHostAlloc) X(cuMemFreeHost)                           \
  X(cuMemHostGetDevicePointer_v2) X(cuMemsetD8Async) X(cuMemcpyDtoDAsync_v2)                    \
  X(cuStreamCreateWithPriority) X(cuStreamDestroy_v2) X(cuStreamQuery) X(cuStreamWaitEvent)     \
  X(cuStreamWaitValue32_v2) X(cuStreamIsCapturing) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventRecord) X(cuEventQuery) \
  X(cuLibraryLoadData) X(cuLibraryUnload) X(cuLibraryGetKernel) X(cuLaunchKernel)               \
  X(cuCtxGetCurrent) X(cuCtxSetCurrent) X(cuCtxPushCurrent_v2) X(cuCtxPopCurrent_v2)            \
  X(cuCtxGetDevice) X(cuCtxSynchronize) X(cuDeviceGetAttribute)                                 \
  X(cuThreadExchangeStreamCaptureMode)
// clang-format on
#define KVSHIM_VMM_DECLARE(name) decltype(&::name) name = nullptr;
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_VMM_DECLARE)
#undef KVSHIM_VMM_DECLARE
};

}  // namespace kvshim::vmm
