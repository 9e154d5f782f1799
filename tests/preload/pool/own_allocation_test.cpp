// Allocations of the engine itself on a GPU that is full of what an idle pool holds.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/preload/context_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPoolBytes = 512 * kMiB;
constexpr std::size_t kPiece = 96 * kMiB;

class OwnAllocation : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(pool_, 7, kPoolBytes, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    // The pool is all there: what is told as free is free.
    std::size_t free = 0, total = 0;
    ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    for (; free >= kPiece; free -= kPiece) ASSERT_TRUE(allocate(kPiece, &filling_));
  }
  void TearDown() override {
    if (context_ == nullptr) return;
    become_idle();
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    std::vector<std::uint8_t> held(kMiB);
    for (std::size_t at = 0; at < kPoolBytes; at += 64 * kMiB) {
      EXPECT_EQ(cuMemcpyDtoH_v2(held.data(), pool_ + at, kMiB), CUDA_SUCCESS);
      EXPECT_EQ(held, std::vector<std::uint8_t>(kMiB, 7));
    }
    for (CUdeviceptr one : filling_) EXPECT_EQ(cuMemFree_v2(one), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
    ContextTest::TearDown();
  }
  static bool allocate(std::size_t bytes, std::vector<CUdeviceptr>* into) {
    CUdeviceptr made = 0;
    const CUresult result = cuMemAlloc_v2(&made, bytes);
    if (result == CUDA_SUCCESS) into->push_back(made);
    return result == CUDA_SUCCESS;
  }
  // New work on the pool all the time: nothing can be given. (A stream that stands would
  // hold up the driver's own failing allocation.)
  void keep_busy() {
    busy_ = std::thread([&] {
      EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
      while (!idle_.load()) {
        EXPECT_EQ(cuMemsetD8Async(pool_, 7, kMiB, stream_), CUDA_SUCCESS);
        EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
      }
    });
  }
  void become_idle() {
    idle_.store(true);
    if (busy_.joinable()) busy_.join();
  }

  CUdeviceptr pool_ = 0;
  std::vector<CUdeviceptr> filling_;
  std::atomic<bool> idle_{false};
  std::thread busy_;
};

// What was freed for one must not be taken for the other's.
TEST_F(OwnAllocation, ThreadsThatFindNoMemoryAtOnceAllGetTheirs) {
  constexpr std::size_t kThreads = 4;
  std::vector<CUdeviceptr> made[kThreads];
  std::atomic<std::size_t> ready{0}, failures{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
      ready.fetch_add(1);
      while (ready.load() != kThreads) std::this_thread::yield();
      if (!allocate(kPiece, &made[i])) failures.fetch_add(1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures.load(), 0u);
  for (const auto& one : made) filling_.insert(filling_.end(), one.begin(), one.end());
}

TEST_F(OwnAllocation, ASmallerOneIsPressedForAlthoughALargerOneHasJustFailed) {
  keep_busy();
  EXPECT_FALSE(allocate(2 * kPiece, &filling_)) << "the pool is at work for a whole second";
  become_idle();
  EXPECT_TRUE(allocate(kPiece, &filling_));
}

// An engine that probes for memory must not wait each time.
TEST_F(OwnAllocation, OneAsLargeAsTheOneThatHasJustFailedIsRefusedAtOnce) {
  keep_busy();
  EXPECT_FALSE(allocate(kPiece, &filling_));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(allocate(kPiece, &filling_));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 900ms);
}

}  // namespace
}  // namespace kvshim::preload
