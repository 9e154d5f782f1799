// A program's own context and stream, under a preloaded libkvshim.so.
// Names are exact export names (see preload/real_driver.h).
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace kvshim::preload {

/// Makes the first GPU's primary context current, for good unless it is released.
inline bool use_cuda(CUcontext* context) {
  return cuInit(0) == CUDA_SUCCESS && cuDevicePrimaryCtxRetain(context, 0) == CUDA_SUCCESS &&
         cuCtxSetCurrent(*context) == CUDA_SUCCESS;
}
inline bool use_cuda() {
  CUcontext context = nullptr;
  return use_cuda(&context);
}

class ContextTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_CONFIG") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    ASSERT_TRUE(use_cuda(&context_));
    ASSERT_EQ(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  }
  void TearDown() override {
    if (context_ == nullptr) return;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamDestroy_v2(stream_), CUDA_SUCCESS);
    cuDevicePrimaryCtxRelease_v2(0);
  }

  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
};

}  // namespace kvshim::preload
