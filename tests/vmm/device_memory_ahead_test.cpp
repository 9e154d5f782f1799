// Rows made present before they are asked for, and what forbids it.
#include <gtest/gtest.h>

#include <array>

#include "tests/vmm/fake_pressure.h"
#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

constexpr std::uint64_t kBusy = 0;  // nothing has finished yet

class AheadTest : public ::testing::Test {
 protected:
  AheadTest() {
    for (const PoolRecord*& layer : layers_) layer = bench_.pool(kGiB, "layers");
  }
  std::size_t steps(std::uint64_t finished = kBusy) {
    std::size_t count = 0;
    while (bench_.memory->step_ahead(finished)) ++count;
    return count;
  }
  void write_in_sequence(std::uint32_t first, std::uint32_t count) {
    for (std::uint32_t g = first; g < first + count; ++g) bench_.fault(layers_[0], g);
  }
  MemoryBench bench_{
      {.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .read_ahead_share = 1.0}};
  std::array<const PoolRecord*, 3> layers_{};
};

TEST_F(AheadTest, TheNextRowOfASequenceIsThereBeforeItIsAskedFor) {
  write_in_sequence(8, 2);
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
  EXPECT_EQ(steps(), 3u) << "one swap for each layer";
  for (const PoolRecord* layer : layers_) {
    EXPECT_TRUE(bench_.writable(layer, 10));
    EXPECT_FALSE(bench_.writable(layer, 11));
    EXPECT_TRUE(bench_.is_zero(layer, 10));
  }
  EXPECT_EQ(bench_.memory->statistics().granules_ahead.load(), 3u);
}

TEST_F(AheadTest, TheFaultThatReachesItMovesTheSequenceOn) {
  write_in_sequence(8, 2);
  steps();
  const std::uint64_t held = bench_.memory->physical().device;
  const FaultAnswer answer = bench_.fault(layers_[1], 10);
  for (const PoolRecord* layer : layers_) {
    EXPECT_TRUE(names(answer.runs, bench_.granule(layer, 10)));
  }
  EXPECT_EQ(bench_.memory->physical().device, held) << "it was present already";
  EXPECT_EQ(steps(), 3u);
  EXPECT_TRUE(bench_.writable(layers_[2], 11));
}

TEST_F(AheadTest, AScatteredFaultIsNotGoneAheadOf) {
  bench_.fault(layers_[0], 8);
  bench_.fault(layers_[0], 80);
  EXPECT_EQ(steps(), 0u);
}

TEST_F(AheadTest, NothingIsSwappedWhileAReaderOfUnwrittenPagesIsUnfinished) {
  write_in_sequence(8, 2);
  const AbiRun everything{bench_.granule(layers_[0], 0), 512};
  bench_.memory->reads_anywhere(std::span(&everything, 1), 5);
  EXPECT_EQ(steps(4), 0u);
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
  bench_.fault(layers_[0], 10);
  EXPECT_EQ(steps(5), 3u);
}

TEST_F(AheadTest, AReaderOfPresentPagesForbidsNothing) {
  write_in_sequence(8, 2);
  const AbiRun written{bench_.granule(layers_[0], 8), 2};
  bench_.memory->reads_anywhere(std::span(&written, 1), 5);
  EXPECT_EQ(steps(4), 3u);
}

// Padding of a batch reads the first block though nobody may have written it.
TEST_F(AheadTest, AFirstSlotIsNeverInAHole) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 10) + 4096, 4096);
  write_in_sequence(8, 2);
  EXPECT_EQ(steps(), 0u);
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
}

TEST_F(AheadTest, AFirstBlockOverTwoGranulesIsInNoHole) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 10) - 2048, 4096);
  write_in_sequence(8, 2);
  EXPECT_EQ(steps(), 0u);
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
}

TEST_F(AheadTest, AnAbsentExtentThatHoldsAFirstSlotStaysWhole) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 500), 4096);
  write_in_sequence(494, 2);  // 496 to 511 is one absent extent
  EXPECT_EQ(bench_.extent_granules(layers_[0], 496), 16u);
  EXPECT_EQ(steps(), 0u);
  EXPECT_EQ(bench_.extent_granules(layers_[0], 496), 16u);
}

TEST_F(AheadTest, TheEndOfAPoolIsLeftToGuards) {
  write_in_sequence(509, 2);
  EXPECT_EQ(steps(), 0u);
  EXPECT_FALSE(bench_.writable(layers_[0], 511));
}

TEST_F(AheadTest, AnotherPoolAtTheSameAddressHasFirstSlotsOfItsOwn) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 10), 4096);
  const CUdeviceptr base = layers_[0]->base;
  for (const PoolRecord*& layer : layers_) {
    ASSERT_EQ(bench_.memory->free(layer->base), CUDA_SUCCESS);
  }
  for (const PoolRecord*& layer : layers_) layer = bench_.pool(kGiB, "layers");
  ASSERT_EQ(layers_[0]->base, base) << "the arena gives the lowest addresses";
  write_in_sequence(8, 2);
  EXPECT_EQ(steps(), 3u);
}

TEST(RowsAheadTest, TheOptionTurnsItOff) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_share = 1.0, .rows_ahead = false});
  const PoolRecord* pool = bench.pool(kGiB);
  bench.fault(pool, 8);
  bench.fault(pool, 9);
  EXPECT_FALSE(bench.memory->step_ahead(kBusy));
}

TEST_F(AheadTest, AFullGpuIsNotFilledAhead) {
  write_in_sequence(8, 2);
  bench_.driver.take_gpu_memory(8 * kGiB - kFloor - bench_.driver.device_bytes() - kMiB);
  MemoryBench::forget_free_memory();
  EXPECT_EQ(steps(), 0u);
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
}

TEST_F(AheadTest, AFailedSwapAheadLeavesThePageAsItWas) {
  write_in_sequence(8, 2);
  bench_.driver.fail(Call::cuMemMap, 1, CUDA_ERROR_OUT_OF_MEMORY);
  steps();
  EXPECT_FALSE(bench_.writable(layers_[0], 10));
  EXPECT_TRUE(bench_.is_zero(layers_[0], 10));
  bench_.fault(layers_[0], 10);
  EXPECT_TRUE(bench_.writable(layers_[0], 10));
}

class FollowingRowTest : public AheadTest {
 protected:
  FaultAnswer ask(std::size_t layer, std::uint32_t offset, std::uint64_t finished = kBusy) {
    const std::array<AbiRun, 2> wanted{AbiRun{bench_.granule(layers_[layer], offset), 1},
                                       AbiRun{bench_.granule(layers_[layer], kV + offset), 1}};
    return bench_.memory->fault(wanted, true, finished);
  }
  bool both_writable(std::size_t layer, std::uint32_t offset) const {
    return bench_.writable(layers_[layer], offset) && bench_.writable(layers_[layer], kV + offset);
  }
  static constexpr std::uint32_t kV = 256;
};

TEST_F(FollowingRowTest, TheFirstLayerIsAnsweredAtOnceAndTheOthersFollowInOrder) {
  const FaultAnswer answer = ask(1, 40);
  EXPECT_TRUE(both_writable(1, 40));
  EXPECT_FALSE(bench_.writable(layers_[2], 40));
  EXPECT_TRUE(names(answer.runs, bench_.granule(layers_[1], kV + 40)));
  EXPECT_FALSE(names(answer.runs, bench_.granule(layers_[2], 40)));
  ASSERT_TRUE(bench_.memory->step_ahead(kBusy));
  ASSERT_TRUE(bench_.memory->step_ahead(kBusy));
  EXPECT_TRUE(both_writable(2, 40)) << "the layer after it, K and V";
  EXPECT_FALSE(bench_.writable(layers_[0], 40));
  steps();
  EXPECT_TRUE(both_writable(0, 40));
  EXPECT_EQ(bench_.memory->physical().device, 6 * kGranuleBytes);
}

TEST_F(FollowingRowTest, ALayerThatAsksIsToldOfAllThatIsThereAndTheRestFollowsIt) {
  ask(0, 40);
  const FaultAnswer answer = ask(1, 40);  // faster than the server
  EXPECT_TRUE(names(answer.runs, bench_.granule(layers_[1], 40)));
  EXPECT_TRUE(names(answer.runs, bench_.granule(layers_[0], 40)));
  EXPECT_EQ(steps(), 2u) << "only the last layer's are left";
  EXPECT_TRUE(both_writable(2, 40));
}

TEST_F(FollowingRowTest, ARowThatAReaderMayLookAtIsMadeBeforeTheAnswer) {
  const AbiRun everything{bench_.granule(layers_[0], 0), 512};
  bench_.memory->reads_anywhere(std::span(&everything, 1), 5);
  ask(0, 40, 4);
  EXPECT_TRUE(both_writable(2, 40));
}

TEST_F(FollowingRowTest, ARowWithAFirstSlotIsMadeBeforeTheAnswer) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 40), 4096);
  ask(0, 40);
  EXPECT_TRUE(bench_.writable(layers_[2], 40));
  EXPECT_FALSE(bench_.writable(layers_[2], kV + 40)) << "V has no first slot there";
}

TEST_F(FollowingRowTest, IdlenessEndsIt) {
  ask(0, 40);
  bench_.memory->nothing_ahead();
  EXPECT_EQ(steps(), 0u);
  EXPECT_FALSE(bench_.writable(layers_[1], 40));
  EXPECT_EQ(ask(1, 40).kind, AnswerKind::kPresent);
  EXPECT_TRUE(both_writable(1, 40));
}

TEST_F(FollowingRowTest, AFreedPoolIsNotFollowed) {
  ask(0, 40);
  ASSERT_EQ(bench_.memory->free(layers_[1]->base), CUDA_SUCCESS);
  steps();
  bench_.expect_sound();
}

TEST_F(AheadTest, ARangeIsMadePresentAtOnceWhenNothingMayLookAtIt) {
  const AbiRun range{bench_.granule(layers_[0], 20), 100};
  EXPECT_TRUE(bench_.memory->make_present_now(std::span(&range, 1), kBusy));
  EXPECT_TRUE(bench_.writable(layers_[0], 20));
  EXPECT_TRUE(bench_.writable(layers_[0], 119));
  EXPECT_FALSE(bench_.writable(layers_[0], 120));
  EXPECT_FALSE(bench_.writable(layers_[1], 20)) << "siblings are not concerned";
}

TEST_F(AheadTest, ARangeThatAReaderMayLookAtNeedsItsGuard) {
  const AbiRun everything{bench_.granule(layers_[0], 0), 512};
  bench_.memory->reads_anywhere(std::span(&everything, 1), 5);
  const AbiRun range{bench_.granule(layers_[0], 20), 100};
  EXPECT_FALSE(bench_.memory->make_present_now(std::span(&range, 1), 4));
  EXPECT_FALSE(bench_.writable(layers_[0], 20));
  EXPECT_TRUE(bench_.memory->make_present_now(std::span(&range, 1), 5));
}

// A neighbour may make room, which is for the guard's fault to ask: a page made in host
// memory at once would take the driver longer than that.
TEST(PresentNowTest, ARangeThatNeighboursMayMakeRoomForIsLeftToItsGuard) {
  FakePressure neighbours;
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .pressure = &neighbours});
  const PoolRecord* const pool = bench.pool(kGiB);
  const AbiRun range{bench.granule(pool, 20), 100};
  const std::uint64_t taken = bench.driver.gpu_free() - kFloor - 50 * kGranuleBytes;
  bench.driver.take_gpu_memory(taken);
  bench.forget_free_memory();
  EXPECT_FALSE(bench.memory->make_present_now(std::span(&range, 1), kBusy));
  EXPECT_EQ(bench.memory->statistics().faults_in_host_memory.load(), 0u);
  EXPECT_EQ(bench.figures(pool).parked, 0u);
  bench.driver.give_gpu_memory(taken);
  bench.forget_free_memory();
  EXPECT_TRUE(bench.memory->make_present_now(std::span(&range, 1), kBusy));
  EXPECT_EQ(bench.figures(pool).parked, 0u);
  bench.driver.take_gpu_memory(taken - range.count * kGranuleBytes);
  bench.forget_free_memory();
  EXPECT_TRUE(bench.memory->make_present_now(std::span(&range, 1), kBusy))
      << "nothing is left to be made";
}

// Its guard would not get better ones; and a stream that waits for the calling thread never
// comes to it.
TEST(PresentNowTest, ARangeThatNobodyCanMakeRoomForIsMadeInHostMemory) {
  FakePressure neighbours;
  neighbours.there.store(false);
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .pressure = &neighbours});
  const PoolRecord* const pool = bench.pool(kGiB);
  const AbiRun first{bench.granule(pool, 20), 10}, second{bench.granule(pool, 40), 10};
  const std::uint64_t taken = bench.driver.gpu_free() - kFloor;
  bench.driver.take_gpu_memory(taken);
  bench.forget_free_memory();
  EXPECT_TRUE(bench.memory->make_present_now(std::span(&first, 1), kBusy));
  EXPECT_EQ(bench.figures(pool).parked, 10 * kGranuleBytes);
  bench.driver.give_gpu_memory(taken);
  bench.forget_free_memory();
  neighbours.there.store(true);
  bench.memory->limits().limit.store(1);
  EXPECT_TRUE(bench.memory->make_present_now(std::span(&second, 1), kBusy)) << "it is the limit";
  EXPECT_EQ(bench.figures(pool).parked, 20 * kGranuleBytes);
  EXPECT_EQ(neighbours.asks.load(), 0u);
}

TEST_F(AheadTest, SplittingWhereSequencesBeginSparesTheFirstFaultIt) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 256), 4096);
  std::size_t splits = 0;
  while (bench_.memory->split_at_first_slots()) ++splits;
  EXPECT_EQ(splits, layers_.size());
  for (const PoolRecord* layer : layers_) {
    EXPECT_EQ(bench_.extent_granules(layer, 256), 1u);
    EXPECT_EQ(bench_.extent_granules(layer, 257), 1u);
    EXPECT_EQ(bench_.extent_granules(layer, 258), 2u);
    EXPECT_EQ(bench_.extent_granules(layer, 260), 4u);
    EXPECT_EQ(bench_.extent_granules(layer, 272), 16u);
    EXPECT_FALSE(bench_.writable(layer, 256));
  }
}

TEST_F(AheadTest, AFailedSplitLeavesTheExtentWhole) {
  bench_.memory->note_first_slots(bench_.address(layers_[0], 256), 4096);
  bench_.driver.fail(Call::cuMemSetAccess, 1, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(bench_.memory->split_at_first_slots());
  EXPECT_EQ(bench_.extent_granules(layers_[0], 256), 16u);
}

}  // namespace
}  // namespace kvshim::vmm::testing
