// In which blocks contents are parked and come back, and what that costs.
#include <gtest/gtest.h>

#include <thread>

#include "tests/vmm/engine_bench.h"
#include "tests/vmm/layers_bench.h"

namespace kvshim::vmm::testing {
namespace {

// --- blocks -------------------------------------------------------------------

TEST(BlocksTest, NeighboursAreParkedAsOneAndKeepEveryByte) {
  LayersBench bench(4, 64);
  bench.park_merged();
  EXPECT_EQ(bench.figures(bench.layers[3]).parked, 64 * kGranuleBytes);
  EXPECT_EQ(bench.extent_granules(bench.layers[0], 0), 16u);
  EXPECT_EQ(bench.extent_granules(bench.layers[3], 32), 16u);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  bench.expect_contents();
  bench.bring_back(bench.memory->blocks_to_return());
  EXPECT_EQ(bench.figures(bench.layers[3]).resident, 64 * kGranuleBytes);
  EXPECT_EQ(bench.extent_granules(bench.layers[3], 32), 16u) << "one extent again";
  EXPECT_EQ(bench.memory->host_in_use(), 0u);
  bench.expect_contents();
}

// A guard copies a parked extent as a whole before it may be written: where the
// next writes come they must be small.
TEST(BlocksTest, AtTheFrontExtentsStayAsTheyAre) {
  LayersBench bench(4, 63);  // the last written row is 62
  bench.park_merged();
  for (const PoolRecord* layer : bench.layers) {
    EXPECT_EQ(bench.extent_granules(layer, 62), 1u);
    EXPECT_EQ(bench.extent_granules(layer, 60), 2u);
    EXPECT_EQ(bench.extent_granules(layer, 56), 4u);
    EXPECT_EQ(bench.extent_granules(layer, 48), 8u);
    EXPECT_EQ(bench.extent_granules(layer, 32), 16u);
  }
}

// Wherever that is: a pool that is full is written on where nobody has seen it.
TEST(BlocksTest, AWrittenRowOfAGroupIsNoMoreThanAFaultCopies) {
  for (const std::size_t layers : {1u, 6u, 7u, 12u, 13u, 24u, 30u}) {
    for (const bool again : {false, true}) {
      SCOPED_TRACE(std::to_string(layers) + (again ? " again" : ""));
      LayersBench bench(layers, 33);
      bench.park_merged();
      if (again) {  // what comes back as one is parked in parts
        bench.bring_back(bench.memory->blocks_to_return());
        EXPECT_EQ(bench.extent_granules(bench.layers[0], 0), 16u);
        bench.park_merged();
      }
      const std::uint64_t row = layers * bench.extent_granules(bench.layers[0], 0) * kGranuleBytes;
      if (layers <= 24) {
        EXPECT_LE(row, 192 * kMiB);
        EXPECT_GT(row * 2, std::min<std::uint64_t>(192, layers * 32) * kMiB) << "and no smaller";
        // All of it is promoted at once by a write to one granule.
        const std::uint64_t device = bench.memory->physical().device;
        const FaultAnswer answer = bench.fault(bench.layers[0], 0);
        EXPECT_EQ(answer.kind, AnswerKind::kCopyFirst);
        for (const AbiCopy& copy : answer.copies) bench.copy(copy);
        EXPECT_EQ(bench.memory->copied().kind, AnswerKind::kPresent);
        EXPECT_EQ(bench.memory->physical().device - device, row);
      } else {
        EXPECT_EQ(row, layers * 8 * kMiB) << "smaller blocks would cost more calls than copies";
      }
      bench.expect_contents();
    }
  }
}

// A guard waits for them. Of each block one mapping is taken away and one is made.
TEST(BlocksTest, AQuestionSwapsNoMoreThanTwentyFourSingleBlocks) {
  LayersBench bench(32, 1);
  bench.park_all();
  const auto ask = [&] { bench.fault(bench.layers[0], 1); };
  ask();  // what the last answer names is not chosen
  const std::vector<ExtentName> read = bench.memory->parked_since(0, true);
  ASSERT_EQ(read.size(), 32u);
  ASSERT_EQ(bench.memory->begin_to_bring_home(read, kGiB, 0).size(), 32u);
  bench.memory->move_bits_cleared();
  ask();
  for (const AbiCopy& one : bench.memory->move_copies()) bench.copy(one);
  bench.memory->moves_copied(true);
  const std::atomic<std::uint64_t>& home = bench.memory->statistics().prefetched_bytes;
  ask();
  EXPECT_EQ(home.load(), 24 * kGranuleBytes);
  ask();
  EXPECT_EQ(home.load(), 32 * kGranuleBytes);
  bench.expect_contents();
}

TEST(BlocksTest, TheEndOfAPoolStaysByItself) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(64 * kMiB);
  for (std::uint32_t g = 0; g < 32; ++g) bench.fault(pool, 31 - g);
  for (const std::uint32_t g : {0u, 8u}) bench.fault(pool, g);
  bench.park_merged();
  EXPECT_EQ(bench.extent_granules(pool, 31), 1u) << "no rule may drop what lies behind the pool";
  EXPECT_EQ(bench.extent_granules(pool, 30), 1u);
  EXPECT_EQ(bench.extent_granules(pool, 28), 2u);
  bench.bring_back(bench.memory->blocks_to_return());
  EXPECT_EQ(bench.extent_granules(pool, 31), 1u);
}

TEST(BlocksTest, PinnedExtentsAreInNoBlock) {
  LayersBench bench(1, 64);
  const PoolRecord* pool = bench.layers[0];
  bench.memory->pin(bench.address(pool, 5), 1);
  bench.park_merged();
  EXPECT_EQ(bench.extent_granules(pool, 0), 4u);
  EXPECT_EQ(bench.extent_granules(pool, 4), 1u);
  EXPECT_EQ(bench.figures(pool).resident, kGranuleBytes);
  EXPECT_EQ(bench.extent_granules(pool, 16), 16u);
  bench.expect_contents();
}

TEST(BlocksTest, APinThatComesBetweenKeepsTheBlock) {
  LayersBench bench(1, 64);
  const PoolRecord* pool = bench.layers[0];
  const ExtentName block = bench.memory->blocks_to_park(bench.resident()).back();
  ASSERT_EQ(block.order, 4);
  PreparedPark prepared;
  ASSERT_EQ(bench.memory->prepare_park(block, &prepared), Preparation::kDone);
  bench.memory->pin(block.address + 3 * kGranuleBytes, 1);
  EXPECT_FALSE(bench.memory->swap_to_parked(prepared, 1));
  bench.memory->cancel_park(prepared);
  EXPECT_EQ(bench.figures(pool).resident, 64 * kGranuleBytes);
}

TEST(BlocksTest, MostRecentlyWrittenBlocksComeFirst) {
  LayersBench bench(1, 64);
  bench.fault(bench.layers[0], 20);  // again
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
  ASSERT_GT(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].offset, 16u);
  EXPECT_EQ(blocks.back().offset, 0u);
}

// --- returning --------------------------------------------------------------------

// A reader that nobody knows of must never see half a copy.
TEST(ReturningTest, UntilTheCopyIsDoneAnAddressHoldsWhatItShould) {
  LayersBench bench(2, 40);
  bench.park_all();
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_return();
  std::vector<PreparedPark> all(blocks.size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_EQ(bench.memory->prepare_return(blocks[i], 0, &all[i]), Preparation::kDone);
  }
  bench.expect_contents();
  EXPECT_EQ(bench.figures(bench.layers[0]).resident, 0u);
  for (const PreparedPark& one : all) bench.memory->cancel_return(one);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  bench.expect_contents();
}

// A prefix that requests share is written once, long ago.
TEST(ReturningTest, WhatWasReadLastComesFirst) {
  LayersBench bench(4, 64);
  bench.readers_read(bench.layers[1], {17}, 5);
  bench.park_merged();
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_return();
  ASSERT_GT(blocks.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(blocks[i].offset, 16u) << "all layers' row";
  EXPECT_GT(blocks[4].offset, 16u) << "then what was written last";
  EXPECT_GE(blocks[4].written, blocks[5].written);
}

TEST(ReturningTest, ToParkAndToReturnIsNoUse) {
  LayersBench bench(1, 64);
  bench.readers_read(bench.layers[0], {17}, 5);
  bench.park_merged();
  bench.memory->set_tick(9);
  bench.bring_back(bench.memory->blocks_to_return());
  bench.memory->set_tick(10);
  bench.fault(bench.layers[0], 33);
  bench.memory->set_tick(11);
  bench.park_merged();
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_return();
  ASSERT_GT(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].used, 10u);
  EXPECT_EQ(blocks[1].used, 5u);
  EXPECT_EQ(blocks[2].used, 0u);
}

TEST(ReturningTest, HeadroomIsLeftToOthers) {
  LayersBench bench(1, 32);
  bench.park_merged();
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_return();
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor - 100 * kMiB);
  bench.forget_free_memory();
  PreparedPark back;
  EXPECT_EQ(bench.memory->prepare_return(blocks[0], 200 * kMiB, &back), Preparation::kNoRoom);
  ASSERT_EQ(bench.memory->prepare_return(blocks[0], 0, &back), Preparation::kDone);
  bench.memory->cancel_return(back);
}

// --- slabs ------------------------------------------------------------------------

TEST(SlabOrdersTest, SlabsAreMadeInTheOrdersThatAReleaseUses) {
  LayersBench bench(4, 64);
  while (bench.memory->make_slabs_ahead()) continue;
  const std::uint64_t creates = bench.driver.calls(Call::cuMemCreate);
  const std::uint64_t maps = bench.driver.calls(Call::cuMemMap);
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
  EXPECT_EQ(bench.park(blocks), blocks.size());
  EXPECT_EQ(bench.driver.calls(Call::cuMemCreate), creates);
  EXPECT_EQ(bench.driver.calls(Call::cuMemMap) - maps, blocks.size()) << "windows are there";
}

TEST(SlabOrdersTest, SmallerSlabsAreUsedRatherThanALargeOnePinned) {
  LayersBench bench(1, 40);
  bench.park_all();  // of one granule each
  bench.bring_back(bench.parked());
  const std::uint64_t creates = bench.driver.calls(Call::cuMemCreate);
  PreparedPark prepared;
  std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
  ASSERT_EQ(blocks.back().order, 4);
  ASSERT_EQ(bench.memory->prepare_park(blocks.back(), &prepared), Preparation::kSplit);
  const auto halves = DeviceMemory::halves(blocks.back());
  EXPECT_EQ(bench.memory->prepare_park(halves[0], &prepared), Preparation::kSplit);
  EXPECT_EQ(bench.driver.calls(Call::cuMemCreate), creates);
}

// Pinning takes milliseconds; a fault must not wait for it.
TEST(SlabOrdersTest, AFaultDoesNotWaitForPinning) {
  LayersBench bench(1, 4);
  const std::vector<ExtentName> blocks = bench.resident();
  bench.driver.host_create_microseconds.store(2'000'000);
  std::atomic<bool> prepared{false};
  const std::uint64_t creates = bench.driver.calls(Call::cuMemCreate);
  std::thread releasing([&] {
    PreparedPark one;
    EXPECT_EQ(bench.memory->prepare_park(blocks[0], &one), Preparation::kDone);
    prepared.store(true);
    bench.memory->cancel_park(one);
  });
  ASSERT_TRUE(eventually([&] { return bench.driver.calls(Call::cuMemCreate) > creates; }));
  EXPECT_EQ(bench.fault(bench.layers[0], 6).kind, AnswerKind::kPresent);
  EXPECT_FALSE(prepared.load());
  releasing.join();
}

// The extent may be gone when its slab is there at last.
TEST(SlabOrdersTest, AFreeWhilePinningLeavesNothing) {
  LayersBench bench(1, 4);
  const std::vector<ExtentName> blocks = bench.resident();
  bench.driver.host_create_microseconds.store(300'000);
  const std::uint64_t creates = bench.driver.calls(Call::cuMemCreate);
  std::thread releasing([&] {
    PreparedPark one;
    EXPECT_EQ(bench.memory->prepare_park(blocks[0], &one), Preparation::kChanged);
  });
  ASSERT_TRUE(eventually([&] { return bench.driver.calls(Call::cuMemCreate) > creates; }));
  EXPECT_EQ(bench.memory->free(bench.layers[0]->base), CUDA_SUCCESS);
  releasing.join();
  bench.expect_empty();
}

// --- what it costs -----------------------------------------------------------------

struct Calls {
  explicit Calls(const FakeDriver& driver) : driver_(driver) {
    for (std::size_t i = 0; i < kCalls; ++i) before_[i] = driver.calls(static_cast<Call>(i));
  }
  std::uint64_t of(Call call) const {
    return driver_.calls(call) - before_[static_cast<std::size_t>(call)];
  }
  const FakeDriver& driver_;
  std::uint64_t before_[kCalls];
};

// 24 layers, 64 rows of one granule each, as an engine leaves them: 3 GiB. The driver
// takes 38 us to map and open, 25 us to unmap, 18 us to release and 5 us to copy.
TEST(ParkingCostTest, MovesOfRowsTakeFewCalls) {
  LayersBench bench(24, 64);
  while (bench.memory->make_slabs_ahead()) continue;
  const std::uint64_t blocks_of_8_mib = bench.bytes() / (8 * kMiB);
  // Of each pool 3 times 32 MiB; then 16, 8 and 8 up to the front.
  constexpr std::uint64_t kLargest = 24 * 3, kAtTheFront = 24 * (1 + 2);
  const Calls parking(bench.driver);
  bench.park_merged();
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_LE(parking.of(Call::cuMemMap), blocks_of_8_mib + 24 * 3) << "4, 2, 1 and 1 at the front";
  EXPECT_EQ(parking.of(Call::cuMemSetAccess), parking.of(Call::cuMemMap));
  EXPECT_EQ(parking.of(Call::cuMemUnmap), parking.of(Call::cuMemMap));
  EXPECT_EQ(parking.of(Call::cuMemCreate), 0u);
  EXPECT_EQ(parking.of(Call::cuMemRelease), 24u * 64u) << "once for each handle that was there";

  const Calls returning(bench.driver);
  bench.bring_back(bench.memory->blocks_to_return());
  EXPECT_EQ(returning.of(Call::cuMemMap), 2 * (kLargest + kAtTheFront));
  EXPECT_EQ(returning.of(Call::cuMemUnmap), 2 * (kLargest + kAtTheFront));
  EXPECT_EQ(returning.of(Call::cuMemCreate), kLargest + kAtTheFront);
  EXPECT_EQ(returning.of(Call::cuMemRelease), 0u);
  bench.expect_contents();

  // Once they have come back in larger extents, parking is cheaper still.
  const Calls again(bench.driver);
  bench.park_merged();
  EXPECT_EQ(again.of(Call::cuMemUnmap), kLargest + kAtTheFront);
  EXPECT_EQ(again.of(Call::cuMemRelease), kLargest + kAtTheFront);
  EXPECT_EQ(again.of(Call::cuMemMap) - again.of(Call::cuMemCreate), blocks_of_8_mib)
      << "slabs that are made have windows";
  bench.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
