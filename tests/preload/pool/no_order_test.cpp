// What is in no order with other work costs moves, nothing else: a thread that is in its driver
// call for long, and graphs that may still run when their pins have gone.
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

class AfterAnUnpin : public NoOrder {
 protected:
  /// A place in a stream that is reached, and left when it is opened.
  struct Stop {
    std::atomic<bool> reached{false}, open{false};
    static void stand(void* stop) {
      static_cast<Stop*>(stop)->reached = true;
      until_open(&static_cast<Stop*>(stop)->open);
    }
  };
  /// A graph made by hand carries no guards: what it fills is pinned.
  void make_graph() {
    CUgraph graph = nullptr;
    CUgraphNode node = nullptr;
    CUDA_MEMSET_NODE_PARAMS fill{};
    fill.dst = pinned_pool_;
    fill.value = 3;
    fill.elementSize = 1;
    fill.width = kMiB;
    fill.height = 1;
    // No such node is made for what was never written.
    ASSERT_EQ(cuMemsetD8_v2(pinned_pool_, 1, kMiB), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphAddMemsetNode(&node, graph, nullptr, 0, &fill, context_), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphInstantiateWithFlags(&exec_, graph, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  }
  void SetUp() override {
    NoOrder::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuMemAlloc_v2(&pinned_pool_, kPoolBytes), CUDA_SUCCESS);
  }
  void TearDown() override {
    if (pinned_pool_ != 0) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(cuMemFree_v2(pinned_pool_), CUDA_SUCCESS);
    }
    NoOrder::TearDown();
  }
  /// Fills a pool's first MiB, behind the graph where `launched`, which is destroyed before it
  /// runs; whether that brings parked memory back.
  bool a_fill_brings_memory_back(CUdeviceptr pool, unsigned char value, bool launched) {
    Stop before, behind;
    EXPECT_EQ(cuLaunchHostFunc(stream_, Stop::stand, &before), CUDA_SUCCESS);
    if (launched) {
      EXPECT_EQ(cuGraphLaunch(exec_, stream_), CUDA_SUCCESS);
      EXPECT_EQ(cuGraphExecDestroy(exec_), CUDA_SUCCESS);
    }
    EXPECT_EQ(cuMemsetD8Async(pool, value, kMiB, stream_), CUDA_SUCCESS);
    EXPECT_EQ(cuLaunchHostFunc(stream_, Stop::stand, &behind), CUDA_SUCCESS);
    // Unfinished, so that nothing is idle while it is looked.
    EXPECT_EQ(cuMemcpyDtoDAsync_v2(plain_, pool, kMiB, stream_), CUDA_SUCCESS);
    const std::size_t parked = free_bytes();
    before.open = true;
    EXPECT_TRUE(soon([&] { return behind.reached.load(); }));
    const bool came_back = free_bytes() + kMiB <= parked;
    behind.open = true;
    EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    EXPECT_EQ(contents(pool, kMiB), std::vector<std::uint8_t>(kMiB, value));
    return came_back;
  }

  CUdeviceptr pinned_pool_ = 0;
  CUgraphExec exec_ = nullptr;
};

// The graph writes what was pinned without a guard, when it is pinned no more.
TEST_F(AfterAnUnpin, NothingMovesUntilAllWorkHasEnded) {
  ASSERT_NO_FATAL_FAILURE(make_graph());
  const std::size_t before = free_bytes();
  ASSERT_EQ(cuMemsetD8Async(pool_, 1, kWritten, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  ASSERT_TRUE(soon([&] { return free_bytes() + kMiB > before; })) << "nothing was parked";
  EXPECT_FALSE(a_fill_brings_memory_back(pool_, 2, true));
  EXPECT_EQ(contents(pinned_pool_, kMiB), std::vector<std::uint8_t>(kMiB, 3));
  ASSERT_TRUE(soon([&] { return free_bytes() >= before + kMiB; })) << "it is still pinned";
  EXPECT_TRUE(a_fill_brings_memory_back(pinned_pool_, 4, false)) << "all has ended once";
}

}  // namespace
}  // namespace kvshim::preload
