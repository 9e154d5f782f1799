// The driver's functions that the bench calls, found at run time.
#pragma once

#include <cuda.h>

#include <string>

namespace kvshim::cli {

/// Names as the driver exports them.
// clang-format off
#define KVSHIM_BENCH_FUNCTIONS(X)                                                              \
  X(cuInit)                                                                                    \
  X(cuDriverGetVersion)                                                                        \
  X(cuDeviceGetCount)                                                                          \
  X(cuDeviceGet)                                                                               \
  X(cuDeviceGetName)                                                                           \
  X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuGetErrorName)     \
      X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemCreate) X(cuMemMap) X(cuMemSetAccess)  \
          X(cuMemUnmap) X(cuMemRelease) X(cuMemGetInfo) X(cuMemAlloc) X(cuMemFree)             \
              X(cuMemsetD8Async) X(cuMemcpyDtoDAsync) X(cuStreamCreate) X(cuStreamSynchronize) \
                  X(cuStreamDestroy) X(cuDevicePrimaryCtxRelease)
// clang-format on

struct BenchDriver {
#define KVSHIM_BENCH_MEMBER(name) decltype(&::name) name = nullptr;
  KVSHIM_BENCH_FUNCTIONS(KVSHIM_BENCH_MEMBER)
#undef KVSHIM_BENCH_MEMBER

  /// "CUDA_ERROR_OUT_OF_MEMORY".
  std::string name_of(CUresult result) const;
  /// Throws Failure(kNoGpu) with `what` unless the result is success.
  void check(CUresult result, const char* what) const;
};

/// Loads libcuda.so.1. Throws Failure(kNoGpu) when that can't be.
BenchDriver load_bench_driver();

}  // namespace kvshim::cli
