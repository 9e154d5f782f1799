// A pool escapes when its exact address is copied to the device, and only then.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

constexpr const char* kReaderName = "_Z6readerPKf";
constexpr const char* kCode = R"(.version 6.4
.target sm_75
.address_size 64
.visible .entry _Z6readerPKf(.param .u64 _Z6readerPKf_param_0) { ret; }
)";

class PoolEscapeTest : public PoolTest {
 protected:
  // As plain allocations would have it, from cuMemGetInfo with memory_view = "physical".
  static std::size_t free_bytes() {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
  }
  template <class T>
  void copy_to_device(const std::vector<T>& payload) {
    ASSERT_LE(payload.size() * sizeof(T), kPlainBytes);
    ASSERT_EQ(cuMemcpyHtoD_v2(plain_, payload.data(), payload.size() * sizeof(T)), CUDA_SUCCESS);
  }
};

TEST_F(PoolEscapeTest, SmallIntegersInARowDoNotMakeItEscape) {
  const std::size_t before = free_bytes();
  std::vector<std::int32_t> counted(400'001);
  std::iota(counted.begin(), counted.end(), 0);
  copy_to_device(counted);
  // Block ids two by two, all pairs that could look like an address.
  std::vector<std::int32_t> pairs;
  for (std::int32_t high = 0; high < 1000; ++high) {
    for (std::int32_t low = 0; low < 1000; low += 7) pairs.insert(pairs.end(), {low, high});
  }
  copy_to_device(pairs);
  EXPECT_EQ(free_bytes(), before);
}

TEST_F(PoolEscapeTest, AnAddressInsideItThatNobodyUsedDoesNotMakeItEscape) {
  const std::size_t before = free_bytes();
  copy_to_device(std::vector<std::uint64_t>{pool_ + 4096 * 3, pool_ + 8, pool_ + kPoolBytes});
  EXPECT_EQ(free_bytes(), before);
}

TEST_F(PoolEscapeTest, ItsExactAddressInAPayloadKeepsItPresentForGood) {
  const std::size_t before = free_bytes();
  copy_to_device(std::vector<std::uint64_t>{1, 2, pool_, 3});
  EXPECT_LE(free_bytes(), before - kPoolBytes);
  EXPECT_EQ(contents(pool_, kPlainBytes), std::vector<std::uint8_t>(kPlainBytes, 0));
}

// Two integers side by side are an address in every pool over 4 GiB; what was named counts, however
// much was.
TEST_F(PoolEscapeTest, ManyLaunchArgumentsDoNotMakeEveryAddressCount) {
  constexpr std::size_t kLargeBytes = 5120 * kMiB;  // absent, so it takes addresses alone
  CUdeviceptr large = 0;
  ASSERT_EQ(cuMemAlloc_v2(&large, kLargeBytes), CUDA_SUCCESS);
  ASSERT_TRUE(lives(large));
  const CUmodule module = load(kCode, kReaderName, [](void* const*) {});
  const CUfunction reader = kernel(module, kReaderName);
  const auto launch = [&](CUdeviceptr named) {
    void* arguments[] = {&named};
    return cuLaunchKernel(reader, 1, 1, 1, 1, 1, 1, 0, stream_, arguments, nullptr);
  };
  for (std::size_t i = 0; i < 20'000; ++i) {
    ASSERT_EQ(launch(large + i * 1024 + 512), CUDA_SUCCESS);
  }
  const CUdeviceptr named_last = pool_ + 5 * 4096;
  ASSERT_EQ(launch(named_last), CUDA_SUCCESS);
  const std::size_t before = free_bytes();
  for (const std::int32_t first : {0, 1}) {
    std::vector<std::int32_t> counted(400'001);
    std::iota(counted.begin(), counted.end(), first);
    copy_to_device(counted);
  }
  EXPECT_EQ(free_bytes(), before);
  copy_to_device(std::vector<std::uint64_t>{named_last});
  EXPECT_LE(free_bytes(), before - kPoolBytes);
  EXPECT_GE(free_bytes(), before - 2 * kPoolBytes) << "the other one did not";
  EXPECT_EQ(cuModuleUnload(module), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(large), CUDA_SUCCESS);
}

TEST_F(PoolEscapeTest, WhatAnEarlierPoolsLaunchesNamedDoesNotCount) {
  const CUmodule module = load(kCode, kReaderName, [](void* const*) {});
  const CUfunction reader = kernel(module, kReaderName);
  CUdeviceptr named = pool_ + 5 * 4096;
  void* arguments[] = {&named};
  ASSERT_EQ(cuLaunchKernel(reader, 1, 1, 1, 1, 1, 1, 0, stream_, arguments, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  const CUdeviceptr earlier = pool_;
  ASSERT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
  if (pool_ != earlier) GTEST_SKIP() << "the addresses were not used again";
  const std::size_t before = free_bytes();
  copy_to_device(std::vector<std::uint64_t>{named});
  EXPECT_EQ(free_bytes(), before);
  EXPECT_EQ(cuModuleUnload(module), CUDA_SUCCESS);
}

TEST_F(PoolEscapeTest, ASecondStreamDoesNotGoOnBeforeItIsPresent) {
  const std::size_t before = free_bytes();
  std::atomic<bool> open{false};
  CUstream second = nullptr;
  ASSERT_EQ(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  // Unfinished work that reads the pool: nothing may be swapped under it.
  ASSERT_EQ(cuLaunchHostFunc(
                stream_,
                [](void* flag) {
                  while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::yield();
                },
                &open),
            CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(plain_ + kMiB, pool_, kMiB, stream_), CUDA_SUCCESS);
  const std::uint64_t payload[] = {pool_};
  ASSERT_EQ(cuMemcpyHtoDAsync_v2(plain_, payload, sizeof(payload), stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyHtoDAsync_v2(plain_ + 64, payload, sizeof(payload), second), CUDA_SUCCESS);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  open.store(true);
  ASSERT_EQ(cuStreamSynchronize(second), CUDA_SUCCESS);
  EXPECT_LE(free_bytes(), before - kPoolBytes);
  EXPECT_EQ(cuStreamDestroy_v2(second), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
