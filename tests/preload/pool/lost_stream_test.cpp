// A stream destroyed while no event can be recorded on it: nobody can tell when its work ends.
#include <atomic>
#include <chrono>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

class LostStream : public PoolTest {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_TESTS_ON_GPU") != nullptr) {
      GTEST_SKIP() << "a driver that can't record an event has to be simulated";
    }
    PoolTest::SetUp();
  }
};

TEST_F(LostStream, DoesNotHoldUpAFreeDuringACapture) {
  CUstream lost = nullptr;
  CUdeviceptr pool = 0;
  ASSERT_EQ(cuStreamCreate(&lost, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc_v2(&pool, kPoolBytes), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool, 1, kMiB, lost), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(lost), CUDA_SUCCESS);
  std::atomic<bool> open{false};
  ASSERT_EQ(cuLaunchHostFunc(lost, until_open, &open), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool, 2, kMiB, lost), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamDestroy_v2(lost), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);

  std::atomic<bool> freed{false};
  std::thread other([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
    freed = true;
  });
  EXPECT_TRUE(soon([&] { return freed.load(); }));
  EXPECT_TRUE(lives(pool)) << "its work has not ended";
  CUgraph graph = nullptr;
  EXPECT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  open = true;
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  other.join();
  EXPECT_TRUE(soon([&] { return !lives(pool); }));
}

// Its work may write parked pages in place, and no guard can be ordered behind it.
TEST_F(LostStream, LeavesWhatIsParkedInPlace) {
  const auto free_bytes = [] {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
  };
  CUstream lost = nullptr;
  ASSERT_EQ(cuStreamCreate(&lost, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  const std::size_t before = free_bytes();
  ASSERT_EQ(cuMemsetD8Async(pool_, 1, 32 * kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  ASSERT_LE(free_bytes() + 32 * kMiB, before);
  ASSERT_TRUE(soon([&] { return free_bytes() + kMiB > before; })) << "nothing was parked";

  std::atomic<bool> open{false};
  ASSERT_EQ(cuLaunchHostFunc(lost, until_open, &open), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool_ + 31 * kMiB, 3, kMiB, lost), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamDestroy_v2(lost), CUDA_SUCCESS);
  const std::size_t parked = free_bytes();
  EXPECT_EQ(cuMemsetD8Async(pool_, 2, kMiB, stream_), CUDA_SUCCESS);
  EXPECT_TRUE(soon([&] { return cuStreamQuery(stream_) == CUDA_SUCCESS; }));
  EXPECT_EQ(free_bytes(), parked);
  open = true;
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
