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
