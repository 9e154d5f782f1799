// cuMemFreeAsync of a pool: it goes when its stream has got there, whatever else works.
#include <atomic>
#include <chrono>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

class StreamOrderedFree : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuStreamCreate(&other_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&freed_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_TRUE(lives(freed_));
  }
  void TearDown() override {
    first_.store(true);
    second_.store(true);
    if (context_ != nullptr) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      cuStreamDestroy_v2(other_);
    }
    PoolTest::TearDown();
  }

  static bool goes(CUdeviceptr pool) {
    return soon([&] { return !lives(pool); });
  }
  static void block(CUstream stream, std::atomic<bool>* open) {
    ASSERT_EQ(cuLaunchHostFunc(stream, until_open, open), CUDA_SUCCESS);
  }

  std::atomic<bool> first_{false}, second_{false};
  CUstream other_ = nullptr;
  CUdeviceptr freed_ = 0;
};

TEST_F(StreamOrderedFree, EndsWhileOtherPoolsAreWorkedOn) {
  ASSERT_EQ(cuMemsetD8Async(freed_, 7, kPlainBytes, stream_), CUDA_SUCCESS);
  block(stream_, &first_);
  ASSERT_EQ(cuMemFreeAsync(freed_, stream_), CUDA_SUCCESS);
  // Present already: a fill that waits for nothing on the host.
  ASSERT_EQ(cuMemsetD8Async(pool_, 1, kMiB, other_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(other_), CUDA_SUCCESS);
  block(other_, &second_);
  ASSERT_EQ(cuMemsetD8Async(pool_, 2, kMiB, other_), CUDA_SUCCESS);
  EXPECT_TRUE(lives(freed_)) << "its stream has not got there";
  first_.store(true);
  EXPECT_TRUE(goes(freed_)) << "other work held it";
  EXPECT_EQ(cuStreamQuery(other_), CUDA_ERROR_NOT_READY) << "nothing else was unfinished";
}

TEST_F(StreamOrderedFree, ComesBehindAllPoolWorkSubmittedBefore) {
  ASSERT_EQ(cuMemsetD8Async(freed_, 7, kMiB, other_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(other_), CUDA_SUCCESS);
  block(other_, &second_);
  ASSERT_EQ(cuMemsetD8Async(freed_, 8, kMiB, other_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFreeAsync(freed_, stream_), CUDA_SUCCESS);
  // Long enough for a stream that waits for nothing.
  for (int i = 0; i < 100 && cuStreamQuery(stream_) == CUDA_ERROR_NOT_READY; ++i) {
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_EQ(cuStreamQuery(stream_), CUDA_ERROR_NOT_READY);
  EXPECT_TRUE(lives(freed_));
  second_.store(true);
  EXPECT_TRUE(goes(freed_));
}

// A graph frees what it allocated, nothing else.
TEST_F(StreamOrderedFree, IsRefusedInACapture) {
  ASSERT_EQ(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFreeAsync(freed_, stream_), CUDA_ERROR_INVALID_VALUE);
  CUgraph graph = nullptr;
  cuStreamEndCapture(stream_, &graph);
  if (graph != nullptr) {
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  }
  EXPECT_TRUE(lives(freed_));
  ASSERT_EQ(cuMemFreeAsync(freed_, stream_), CUDA_SUCCESS);
  EXPECT_TRUE(goes(freed_));
}

}  // namespace
}  // namespace kvshim::preload
