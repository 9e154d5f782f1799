// A hard limit when several threads allocate at once.
#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

#include "tests/preload/context_fixture.h"

namespace kvshim::preload {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kLimit = 100 * kMiB;  // KVSHIM_LIMIT of this test
constexpr std::size_t kPiece = 60 * kMiB;

using LimitRace = ContextTest;

TEST_F(LimitRace, NoTwoThreadsGetTheLastOfALimit) {
  constexpr int kThreads = 4, kRounds = 500;
  std::barrier together(kThreads);
  std::atomic<std::size_t> held{0}, most{0};
  std::atomic<int> got{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
      for (int round = 0; round < kRounds; ++round) {
        together.arrive_and_wait();
        CUdeviceptr made = 0;
        if (cuMemAlloc_v2(&made, kPiece) == CUDA_SUCCESS) {
          const std::size_t now = held.fetch_add(kPiece) + kPiece;
          std::size_t before = most.load();
          while (before < now && !most.compare_exchange_weak(before, now)) continue;
          got.fetch_add(1);
        }
        together.arrive_and_wait();
        if (made == 0) continue;
        held.fetch_sub(kPiece);
        EXPECT_EQ(cuMemFree_v2(made), CUDA_SUCCESS);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most.load(), kLimit);
  EXPECT_GE(got.load(), kRounds) << "one of them in each round";
}

// What can't be had anyway takes nothing from others while it is refused.
TEST_F(LimitRace, WhatIsRefusedTakesNothingFromOthers) {
  std::atomic<bool> done{false};
  std::thread greedy([&] {
    EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    while (!done.load()) {
      CUdeviceptr made = 0;
      EXPECT_EQ(cuMemAlloc_v2(&made, 2 * kLimit), CUDA_ERROR_OUT_OF_MEMORY);
    }
  });
  for (int round = 0; round < 3000; ++round) {
    CUdeviceptr made = 0;
    const CUresult result = cuMemAlloc_v2(&made, 2 * kMiB);
    EXPECT_EQ(result, CUDA_SUCCESS) << "round " << round;
    if (result != CUDA_SUCCESS) break;
    EXPECT_EQ(cuMemFree_v2(made), CUDA_SUCCESS);
  }
  done.store(true);
  greedy.join();
}

}  // namespace
}  // namespace kvshim::preload
