// Parked extents that are written become resident: copied by the guard, then swapped.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/vmm/fake_pressure.h"
#include "tests/vmm/parked_rows.h"

namespace kvshim::vmm::testing {
namespace {

using namespace std::chrono_literals;

using PromotionTest = ParkedRowsTest;

TEST_F(PromotionTest, AParkedExtentIsWritableInPlace) {
  EXPECT_TRUE(bench_.writable(pool_, 2));
  expect_contents();
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
}

TEST_F(PromotionTest, AWriteBringsTheRowBackInTwoSteps) {
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  EXPECT_EQ(first.copies.size(), 2u) << "the row: the sibling's granule too";
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes) << "nothing changes before the copy";
  for (const AbiCopy& copy : first.copies) {
    std::memcpy(reinterpret_cast<void*>(copy.destination),
                reinterpret_cast<const void*>(copy.source), copy.bytes);
  }
  const FaultAnswer second = bench_.memory->copied();
  EXPECT_EQ(second.kind, AnswerKind::kPresent);
  EXPECT_TRUE(names(second.runs, bench_.granule(pool_, 2)));
  EXPECT_TRUE(names(second.runs, bench_.granule(sibling_, 2)));
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
  EXPECT_EQ(bench_.figures(sibling_).resident, kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().promotions.load(), 2u);
  expect_contents();
}

// A thread gave up waiting for another's submission: each may write in place what the
// other's guard copies.
TEST_F(PromotionTest, NothingParkedMovesBesideWorkInNoOrder) {
  EXPECT_TRUE(bench_.memory->all_in_order(std::nullopt));
  bench_.memory->comes_in_no_order(5);
  EXPECT_FALSE(bench_.memory->all_in_order(std::nullopt));
  EXPECT_FALSE(bench_.memory->all_in_order(4));
  EXPECT_TRUE(bench_.memory->all_in_order(5));
  const AbiRun wanted{bench_.granule(pool_, 2), 1};
  for (const bool rows : {true, false}) {
    const FaultAnswer answer = bench_.memory->fault(std::span(&wanted, 1), rows, 4);
    EXPECT_EQ(answer.kind, AnswerKind::kPresent);
    EXPECT_TRUE(names(answer.runs, wanted.first));
  }
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->fault(std::span(&wanted, 1), true, 5).kind, AnswerKind::kCopyFirst)
      << "it has finished";
}

TEST_F(PromotionTest, ACopyThatWorkInNoOrderMayHaveOvertakenIsVoid) {
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  for (const AbiCopy& copy : first.copies) bench_.copy(copy);
  bench_.memory->comes_in_no_order(5);
  bench_.write(sibling_, 2, 999);  // its bit is set: it asks nobody
  const FaultAnswer second = bench_.memory->copied(4);
  EXPECT_EQ(second.kind, AnswerKind::kPresent);
  EXPECT_TRUE(names(second.runs, bench_.granule(pool_, 2)));
  EXPECT_TRUE(bench_.holds(sibling_, 2, 999));
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  EXPECT_EQ(bench_.figures(sibling_).parked, 4 * kGranuleBytes);
}

TEST_F(PromotionTest, NothingIsCopiedBesideWorkInNoOrder) {
  bench_.memory->comes_in_no_order(5);
  const AbiRun wanted{bench_.granule(pool_, 2), 1};
  EXPECT_EQ(bench_.memory->fault(std::span(&wanted, 1), true, 4).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes) << "served in place";
  EXPECT_EQ(bench_.memory->fault(std::span(&wanted, 1), true, 5).kind, AnswerKind::kCopyFirst);
  expect_contents();
}

TEST_F(PromotionTest, WhatWasParkedInNeedIsKnownByWhenItWasWritten) {
  const auto granules = [](const std::vector<ExtentName>& blocks) {
    std::uint64_t sum = 0;
    for (const ExtentName& block : blocks) sum += block.bytes() / kGranuleBytes;
    return sum;
  };
  DeviceMemory& memory = *bench_.memory;
  EXPECT_EQ(granules(memory.parked_since(0, false)), 8u);
  const std::uint64_t released = memory.newest_serial();
  EXPECT_EQ(granules(memory.parked_since(released, false)), 0u) << "parked by that release";
  bench_.served(pool_, 30);
  ASSERT_GT(bench_.park_all(), 0u);
  EXPECT_GE(granules(memory.parked_since(released, false)), 2u) << "the new row";
  bench_.memory->pin(pool_->base, pool_->mapped_bytes);
  bench_.memory->pin(sibling_->base, sibling_->mapped_bytes);
  EXPECT_EQ(granules(memory.parked_since(0, true)), 0u) << "pinned";
}

// Unseen work may write an escaped pool at any time: a copy could lose its writes.
TEST_F(PromotionTest, APinnedSiblingIsNotMovedForTheRowsSake) {
  bench_.memory->pin(sibling_->base, sibling_->mapped_bytes);
  EXPECT_EQ(bench_.served(pool_, 2).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
  EXPECT_EQ(bench_.figures(sibling_).resident, 0u);
  EXPECT_EQ(bench_.served(sibling_, 2, 1, false).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.figures(sibling_).resident, kGranuleBytes) << "its own guard moves it";
}

// More than a fault copies at once.
TEST(PinnedPromotionTest, AllOfAnEscapedPoolComesBackToTheGpu) {
  constexpr std::uint32_t kGranules = 120;
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* const pool = bench.pool(300 * kMiB);
  for (std::uint32_t g = 0; g < kGranules; ++g) {
    bench.served(pool, g);
    bench.write(pool, g, 1000 + g);
  }
  ASSERT_GT(bench.park_all(), 0u);
  ASSERT_EQ(bench.figures(pool).parked, kGranules * kGranuleBytes);
  bench.memory->pin(pool->base, pool->mapped_bytes);
  std::vector<AbiRun> missing;
  for (std::uint32_t g = 0; g < kGranules; ++g) missing.push_back({bench.granule(pool, g), 1});
  while (!missing.empty()) {  // as its guard does
    FaultAnswer answer = bench.memory->fault(missing, false);
    if (answer.kind == AnswerKind::kCopyFirst) {
      for (const AbiCopy& copy : answer.copies) {
        std::memcpy(reinterpret_cast<void*>(copy.destination),
                    reinterpret_cast<const void*>(copy.source), copy.bytes);
      }
      answer = bench.memory->copied();
    }
    ASSERT_EQ(answer.kind, AnswerKind::kPresent);
    const std::size_t before = missing.size();
    std::erase_if(missing, [&](const AbiRun& run) { return names(answer.runs, run.first); });
    ASSERT_LT(missing.size(), before) << "a guard without progress gives up";
  }
  EXPECT_EQ(bench.figures(pool).parked, 0u);
  EXPECT_EQ(bench.figures(pool).resident, kGranules * kGranuleBytes);
  for (std::uint32_t g = 0; g < kGranules; ++g) EXPECT_TRUE(bench.holds(pool, g, 1000 + g)) << g;
}

TEST_F(PromotionTest, ExactRequestsPromoteNoSiblings) {
  EXPECT_EQ(bench_.served(pool_, 1, 2, false).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.figures(pool_).resident, 2 * kGranuleBytes);
  EXPECT_EQ(bench_.figures(sibling_).resident, 0u);
  expect_contents();
}

TEST_F(PromotionTest, ParkedStaysInPlaceWhenTheGpuIsFull) {
  bench_.driver.take_gpu_memory(bench_.driver.gpu_free() - kFloor);
  bench_.forget_free_memory();
  const FaultAnswer answer = bench_.fault(pool_, 2);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  EXPECT_TRUE(names(answer.runs, bench_.granule(pool_, 2)));
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  expect_contents();
}

TEST_F(PromotionTest, AGuardThatGaveUpBetweenLeavesThingsAsTheyWere) {
  const std::uint64_t device = bench_.memory->physical().device;
  ASSERT_EQ(bench_.fault(pool_, 2).kind, AnswerKind::kCopyFirst);
  EXPECT_GT(bench_.memory->physical().device, device);
  // The next guard asks for something else.
  EXPECT_EQ(bench_.fault(pool_, 30).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.memory->physical().device, device + 2 * kGranuleBytes);
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  expect_contents();
}

TEST_F(PromotionTest, MixedRequestsGetAbsentAndParkedGranulesTogether) {
  const FaultAnswer answer = bench_.served(pool_, 2, 6);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  for (std::uint32_t g = 2; g < 8; ++g) {
    EXPECT_TRUE(names(answer.runs, bench_.granule(pool_, g)));
    EXPECT_TRUE(bench_.writable(pool_, g));
  }
  EXPECT_EQ(bench_.figures(pool_).parked, 2 * kGranuleBytes);
  expect_contents();
}

// However long the guard takes (a GPU that many share in turns, a debugger), it reads there.
TEST_F(PromotionTest, APoolThatAGuardMayBeCopyingIsNotFreed) {
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  EXPECT_EQ(bench_.memory->free(sibling_->base, 20ms), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(bench_.table->find(sibling_->base), sibling_);
  expect_contents();
  for (const AbiCopy& copy : first.copies) bench_.copy(copy);
  EXPECT_EQ(bench_.memory->copied().kind, AnswerKind::kPresent);
  EXPECT_EQ(bench_.memory->free(sibling_->base, 0ms), CUDA_SUCCESS);
  bench_.expect_sound();
  EXPECT_EQ(bench_.memory->free(pool_->base, 0ms), CUDA_SUCCESS);
  bench_.expect_empty();
}

TEST_F(PromotionTest, AFreeComesThroughWhenTheCopyIsMade) {
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  std::atomic<bool> made{false};
  std::thread frees([&] {
    EXPECT_EQ(bench_.memory->free(sibling_->base, 10s), CUDA_SUCCESS);
    EXPECT_TRUE(made.load());
  });
  for (const AbiCopy& copy : first.copies) bench_.copy(copy);
  made.store(true);
  EXPECT_EQ(bench_.memory->copied().kind, AnswerKind::kPresent);
  frees.join();
  bench_.expect_sound();
}

TEST_F(PromotionTest, WhatAGuardThatGaveUpDidNotCopyHoldsUpNoFree) {
  ASSERT_EQ(bench_.fault(pool_, 2).kind, AnswerKind::kCopyFirst);
  bench_.memory->no_guard_runs();
  expect_contents();
  EXPECT_EQ(bench_.memory->free(pool_->base, 0ms), CUDA_SUCCESS);
  bench_.expect_sound();
  bench_.memory->copied();  // the server sees its question late
  EXPECT_EQ(bench_.figures(sibling_).resident + bench_.figures(sibling_).parked, 4 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->free(sibling_->base, 0ms), CUDA_SUCCESS);
  bench_.expect_empty();
}

// Its guard gave up after its copies; before the server saw that they were made,
// all work had ended and the extent was restored by a submitter, and written.
TEST_F(PromotionTest, ALateCopyNeverReplacesNewerContents) {
  const FaultAnswer answer = bench_.fault(pool_, 2, 1, false);
  ASSERT_EQ(answer.kind, AnswerKind::kCopyFirst);
  for (const ExtentName& name : bench_.parked()) {
    if (name.address != bench_.address(pool_, 2)) continue;
    ASSERT_EQ(bench_.bring_back({name}), 1u);
  }
  bench_.write(pool_, 2, 102);
  bench_.memory->copied();
  bench_.memory->release_retired();
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
  expect_contents();
}

// More extents than one answer has copies: the rest stays in place, right and slow.
TEST(PromotionLimitTest, NoAnswerCopiesMoreThanSomeMillisecondsWorth) {
  MemoryBench bench({.host_budget = 4 * kGiB}, 16 * kGiB);
  std::vector<const PoolRecord*> layers;
  for (int i = 0; i < 10; ++i) layers.push_back(bench.pool(128 * kMiB, "layers"));
  for (std::uint32_t g = 0; g < 60; ++g) {
    bench.fault(layers[0], g * 7 % 64);  // scattered: one granule each
  }
  ASSERT_GT(bench.park_all(), kMaxCopies);
  const FaultAnswer answer = bench.fault(layers[0], 0, 64);
  EXPECT_EQ(answer.kind, AnswerKind::kCopyFirst);
  // 192 MiB at once, far below kMaxCopies pieces: one block copies them.
  EXPECT_EQ(answer.copies.size(), 96u);
  const FaultAnswer rest = bench.memory->copied();
  EXPECT_EQ(rest.kind, AnswerKind::kPresent);
  for (std::uint32_t g = 0; g < 64; ++g) {
    EXPECT_TRUE(names(rest.runs, bench.granule(layers[0], g)));
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
