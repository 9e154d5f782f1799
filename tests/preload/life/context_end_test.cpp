// What a destroyed context leaves behind: no GPU memory and no host memory, however its
// pools were used. Names are exact export names (see preload/real_driver.h).
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/preload/context_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPool = 64 * kMiB;

class ContextEndTest : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_CONFIG") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxCreate_v2(&watching_, 0, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxPopCurrent_v2(nullptr), CUDA_SUCCESS);
  }
  void TearDown() override {
    if (watching_ == nullptr) return;
    EXPECT_EQ(cuCtxDestroy_v2(watching_), CUDA_SUCCESS);
  }

  /// The driver's own figure (memory_view = "physical"), in a context without pools.
  std::size_t free_memory() {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cuCtxPushCurrent_v2(watching_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxPopCurrent_v2(nullptr), CUDA_SUCCESS);
    return free;
  }
  static std::vector<CUdeviceptr> make_pools() {
    std::vector<CUdeviceptr> pools(3);
    for (CUdeviceptr& pool : pools) {
      EXPECT_EQ(cuMemAlloc_v2(&pool, kPool), CUDA_SUCCESS);
      unsigned long long id = 0;
      EXPECT_EQ(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pool), CUDA_SUCCESS);
      EXPECT_GE(id, 1ull << 48) << "no pool was made";
    }
    return pools;
  }
  static void fill(const std::vector<CUdeviceptr>& pools, std::uint8_t value) {
    for (const CUdeviceptr pool : pools) {
      EXPECT_EQ(cuMemsetD8Async(pool + 2 * kMiB, value, kPool / 2, CU_STREAM_LEGACY), CUDA_SUCCESS);
    }
  }

  using Life = std::function<void()>;
  /// The first round may load what every process loads once.
  void expect_nothing_left(const Life& in_a_context_of_its_own) {
    std::size_t after_first = 0;
    for (int round = 0; round < 5; ++round) {
      in_a_context_of_its_own();
      const std::size_t free = free_memory();
      if (round == 0) after_first = free;
      EXPECT_EQ(after_first / kMiB, free / kMiB) << "after round " << round;
      if (HasFatalFailure()) return;
    }
  }
  void expect_nothing_left_of_a_created_context(const Life& life) {
    expect_nothing_left([&] {
      CUcontext context = nullptr;
      ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
      life();
      EXPECT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
    });
  }
  void expect_nothing_left_of_the_primary_context(const Life& life, CUresult (*end)(CUdevice)) {
    expect_nothing_left([&] {
      ASSERT_TRUE(use_cuda());
      life();
      EXPECT_EQ(cuCtxSetCurrent(nullptr), CUDA_SUCCESS);
      EXPECT_EQ(end(0), CUDA_SUCCESS);
    });
  }

  /// Each way in which pools hold memory when their context ends.
  static void just_written() { fill(make_pools(), 7); }  // unfinished work included
  static void released() {
    fill(make_pools(), 7);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    std::this_thread::sleep_for(300ms);  // idle_timeout is 50 ms
  }
  static void coming_back() {
    const std::vector<CUdeviceptr> pools = make_pools();
    fill(pools, 7);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    std::this_thread::sleep_for(300ms);
    fill(pools, 8);
  }
  // Handles are released one after the other (ctest makes that slow): the context ends between.
  static void being_released() {
    fill(make_pools(), 7);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    std::size_t full = 0, free = 0, total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&full, &total), CUDA_SUCCESS);
    const auto end = std::chrono::steady_clock::now() + 10s;
    do {
      std::this_thread::sleep_for(200us);
      EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    } while (free <= full && std::chrono::steady_clock::now() < end);
    EXPECT_GT(free, full) << "nothing was released";
  }
  static void freed_before() {
    const std::vector<CUdeviceptr> pools = make_pools();
    fill(pools, 7);
    for (const CUdeviceptr pool : pools) EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  }

  CUcontext watching_ = nullptr;
};

TEST_F(ContextEndTest, NothingIsLeftOfPoolsThatWereJustWritten) {
  expect_nothing_left_of_a_created_context(just_written);
}
TEST_F(ContextEndTest, NothingIsLeftOfPoolsThatWereReleased) {
  expect_nothing_left_of_a_created_context(released);
}
TEST_F(ContextEndTest, NothingIsLeftOfPoolsThatAreComingBack) {
  expect_nothing_left_of_a_created_context(coming_back);
}
TEST_F(ContextEndTest, NothingIsLeftOfPoolsThatAreBeingReleased) {
  expect_nothing_left_of_a_created_context(being_released);
}
TEST_F(ContextEndTest, NothingIsLeftOfPoolsThatWereFreed) {
  expect_nothing_left_of_a_created_context(freed_before);
}
TEST_F(ContextEndTest, NothingIsLeftOfAPrimaryContext) {
  expect_nothing_left_of_the_primary_context(coming_back, cuDevicePrimaryCtxRelease_v2);
}
TEST_F(ContextEndTest, NothingIsLeftOfAPrimaryContextThatWasReset) {
  expect_nothing_left_of_the_primary_context(released, [](CUdevice device) {
    const CUresult result = cuDevicePrimaryCtxReset_v2(device);
    cuDevicePrimaryCtxRelease_v2(device);  // the user that is still counted
    return result;
  });
}

// After graphs with guards, and with another context beside.
TEST_F(ContextEndTest, NothingIsLeftOfGraphsWithGuards) {
  expect_nothing_left_of_a_created_context([] {
    const std::vector<CUdeviceptr> pools = make_pools();
    CUstream stream = nullptr;
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    for (const CUdeviceptr pool : pools) {
      EXPECT_EQ(cuMemsetD8Async(pool + kMiB, 3, 4 * kMiB, stream), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
    for (int i = 0; i < 8; ++i) EXPECT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  });
}

// A capture lets no thread synchronise; the destruction waits for the work beside it all the same,
// and so must what comes before it.
TEST_F(ContextEndTest, WorkIsFinishedThoughAnotherStreamIsBeingCaptured) {
  constexpr std::size_t kCopied = 64 * 1024;
  CUcontext context = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
  const std::vector<CUdeviceptr> pools = make_pools();
  CUstream stream = nullptr, captured = nullptr;
  ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamCreate(&captured, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  alignas(4096) static std::array<std::uint8_t, kCopied> host;
  host.fill(1);
  ASSERT_EQ(cuMemHostRegister_v2(host.data(), kCopied, 0), CUDA_SUCCESS);
  const auto slow = [](void*) { std::this_thread::sleep_for(std::chrono::milliseconds(200)); };
  EXPECT_EQ(cuLaunchHostFunc(stream, slow, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD8Async(pools[0] + kMiB, 7, kCopied, stream), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchHostFunc(stream, slow, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuMemcpyDtoHAsync_v2(host.data(), pools[0] + kMiB, kCopied, stream), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamBeginCapture_v2(captured, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
  for (const std::uint8_t byte : host) ASSERT_EQ(byte, 7);
}

}  // namespace
}  // namespace kvshim::preload
