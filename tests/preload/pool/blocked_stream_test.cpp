// A stream that waits for the host thread which submits to it.
#include <atomic>
#include <chrono>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

/// Holds a stream until opened, as a host function that waits for its caller does.
class HostGate {
 public:
  CUresult close(CUstream stream) {
    return cuLaunchHostFunc(
        stream,
        [](void* open) {
          while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::sleep_for(1ms);
        },
        &open_);
  }
  void open() { open_.store(true); }
  ~HostGate() {
    open();
    cuCtxSynchronize();
  }

 private:
  std::atomic<bool> open_{false};
};

class BlockedStream : public PoolTest {
 protected:
  static std::chrono::duration<double> time_of(const auto& call) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    return std::chrono::steady_clock::now() - begin;
  }
};

TEST_F(BlockedStream, AFillThatItsStreamNeverGetsToEndsWithTheDriversError) {
  CUdeviceptr elsewhere = plain_;
  HostGate gate;
  ASSERT_EQ(gate.close(stream_), CUDA_SUCCESS);
  // Unfinished work that reads what is to be made present.
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(elsewhere, pool_, kPlainBytes, stream_), CUDA_SUCCESS);
  CUresult result = CUDA_SUCCESS;
  const auto spent = time_of([&] { result = cuMemsetD8Async(pool_, 7, kMiB, stream_); });
  EXPECT_EQ(result, CUDA_ERROR_INVALID_VALUE);
  EXPECT_LT(spent, 20s);
  gate.open();
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool_, 7, kMiB, stream_), CUDA_SUCCESS) << "nothing is lost by it";
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 7));
}

TEST_F(BlockedStream, AContextThatWaitsForItsEndHoldsUpNoAllocation) {
  CUcontext other = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
  HostGate gate;
  CUstream theirs = nullptr;
  ASSERT_EQ(cuStreamCreate(&theirs, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(gate.close(theirs), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
  std::atomic<bool> ending{false}, ended{false}, allocated{false};
  std::thread end([&] {
    ending = true;
    EXPECT_EQ(cuCtxDestroy_v2(other), CUDA_SUCCESS);
    ended = true;
  });
  while (!ending) std::this_thread::yield();
  std::this_thread::sleep_for(100ms);  // the call has come to its wait
  std::thread allocation([&] {
    CUdeviceptr pool = 0;
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAlloc_v2(&pool, kPoolBytes), CUDA_SUCCESS);
    allocated = true;
    EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  });
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!allocated && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(allocated);
  EXPECT_FALSE(ended) << "nothing was waited for";
  gate.open();
  end.join();
  allocation.join();
}

TEST_F(BlockedStream, WhatIsPresentIsFilledWithoutWaiting) {
  ASSERT_EQ(cuMemsetD8Async(pool_, 1, kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  HostGate gate;
  ASSERT_EQ(gate.close(stream_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD8Async(pool_, 7, kMiB, stream_), CUDA_SUCCESS);
  gate.open();
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 7));
}

}  // namespace
}  // namespace kvshim::preload
