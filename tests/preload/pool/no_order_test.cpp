// A thread that is in its driver call for long costs others the order, nothing else.
#include <atomic>
#include <chrono>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kWritten = 32 * kMiB;

class NoOrder : public PoolTest {
 protected:
  // With memory_view = "physical", what is parked doesn't count.
  static std::size_t free_bytes() {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
  }
  static bool within(std::chrono::seconds patience, const auto& condition) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(1ms);
    }
    return true;
  }
};

// The other thread's work may write parked pages in place at any time: a copy that brings
// them back could miss that.
TEST_F(NoOrder, WhatIsParkedStaysInPlace) {
  if (std::getenv("KVSHIM_TESTS_ON_GPU") != nullptr) {
    GTEST_SKIP() << "a GPU's driver lets nobody submit beside the copy, with or without the shim "
                    "(docs/results/driver_semantics.md)";
  }
  const std::size_t before = free_bytes();
  ASSERT_EQ(cuMemsetD8Async(pool_, 1, kWritten, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  ASSERT_LE(free_bytes() + kWritten, before);
  ASSERT_TRUE(within(30s, [&] { return free_bytes() + kMiB > before; })) << "nothing was parked";

  std::atomic<bool> open{false};
  const auto until_open = [](void* flag) {
    while (!static_cast<std::atomic<bool>*>(flag)->load()) std::this_thread::sleep_for(1ms);
  };
  ASSERT_EQ(cuLaunchHostFunc(nullptr, until_open, &open), CUDA_SUCCESS);
  std::atomic<bool> calling{false};
  std::vector<std::uint8_t> read(kMiB);
  std::thread stuck([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    calling = true;
    EXPECT_EQ(cuMemcpyDtoH_v2(read.data(), pool_ + kWritten - kMiB, kMiB), CUDA_SUCCESS);
  });
  EXPECT_TRUE(within(10s, [&] { return calling.load(); }));
  std::this_thread::sleep_for(200ms);  // else the next one comes first, and nothing is tested
  const std::size_t parked = free_bytes();
  // In a thread of its own: where the driver holds it up, this test is to say so and end.
  std::atomic<bool> filled{false};
  std::thread fills([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(cuMemsetD8Async(pool_, 2, kMiB, stream_), CUDA_SUCCESS);
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 5s) << "it had not to wait";
    filled = true;
  });
  const bool came_back = within(20s, [&] { return filled.load(); });
  EXPECT_TRUE(came_back) << "a fill of parked memory waits for the other stream's work";
  if (came_back) {
    EXPECT_TRUE(within(10s, [&] { return cuStreamQuery(stream_) == CUDA_SUCCESS; }));
    EXPECT_EQ(free_bytes(), parked);
  }
  open = true;
  fills.join();
  stuck.join();
  EXPECT_EQ(read, std::vector<std::uint8_t>(kMiB, 1));
  EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 2));
}

}  // namespace
}  // namespace kvshim::preload
