// A pool and an ordinary allocation side by side, under a preloaded libkvshim.so.
// Names are exact export names (see preload/real_driver.h).
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace kvshim::preload {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kPlainBytes = 12 * kMiB;
inline constexpr std::size_t kPoolBytes = 64 * kMiB;

class PoolTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_CONFIG") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&context_, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&plain_, kPlainBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8_v2(plain_, 0, kPlainBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    unsigned long long id = 0;
    ASSERT_EQ(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pool_), CUDA_SUCCESS);
    ASSERT_GE(id, 1ull << 48) << "no pool was made: pools are counted apart (hooks_query.cpp)";
  }

  void TearDown() override {
    if (context_ == nullptr) return;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(plain_), CUDA_SUCCESS);
    cuStreamDestroy_v2(stream_);
    cuDevicePrimaryCtxRelease_v2(0);
  }

  static std::vector<std::uint8_t> contents(CUdeviceptr memory, std::size_t bytes) {
    std::vector<std::uint8_t> host(bytes, 0xee);
    EXPECT_EQ(cuMemcpyDtoH_v2(host.data(), memory, bytes), CUDA_SUCCESS);
    return host;
  }

  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
  CUdeviceptr plain_ = 0;
  CUdeviceptr pool_ = 0;
};

}  // namespace kvshim::preload
