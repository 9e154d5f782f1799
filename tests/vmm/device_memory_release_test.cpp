#include <gtest/gtest.h>

#include <algorithm>

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

// --- to absent -----------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, AbsentNeighboursMergeIntoTheLargestExtents) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint32_t g = 0; g < 32; ++g) bench.fault(pool, g * 7 % 32);
  // The newest fronts lie elsewhere.
  bench.fault(pool, 40);
  bench.fault(pool, 60);
  bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kZero);
  bench.memory->release_retired();
  EXPECT_EQ(bench.extent_granules(pool, 0), 16u);
  EXPECT_EQ(bench.extent_granules(pool, 16), 16u);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  for (std::uint32_t g = 0; g < 64; ++g) {
    EXPECT_TRUE(bench.is_zero(pool, g));
    EXPECT_FALSE(bench.writable(pool, g));
  }
}

TEST(DeviceMemoryReleaseTest, NearTheLastFrontsExtentsStaySplit) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kZero);
  EXPECT_EQ(bench.extent_granules(pool, 4), 1u);
  EXPECT_EQ(bench.extent_granules(pool, 5), 1u) << "the next fault finds its piece split already";
  EXPECT_EQ(bench.extent_granules(pool, 16), 16u);
}

TEST(DeviceMemoryReleaseTest, OnlyTheNamedExtentsBecomeAbsent) {
  MemoryBench bench({.read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint32_t i = 0; i < 16; ++i) {
    const std::uint32_t g = i * 7 % 16;
    bench.fault(pool, g);
    bench.write(pool, g, g + 1);
  }
  bench.fault(pool, 40);
  bench.fault(pool, 60);
  std::vector<ExtentName> some;
  for (const ExtentName& name : bench.resident()) {
    if (name.offset < 16 && name.offset % 3 == 0) some.push_back(name);
  }
  EXPECT_EQ(bench.memory->swap_to_absent(some, ProofOfAbsence::kDroppedByRule),
            some.size() * kGranuleBytes);
  for (std::uint32_t g = 0; g < 16; ++g) {
    EXPECT_TRUE(g % 3 == 0 ? bench.is_zero(pool, g) : bench.holds(pool, g, g + 1)) << g;
  }
}

TEST(DeviceMemoryReleaseTest, DroppedBytesCountParkedContentsToo) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  bench.write(pool, 4, 9);
  ASSERT_EQ(bench.park_all(), 1u);
  EXPECT_EQ(bench.memory->swap_to_absent(bench.parked(), ProofOfAbsence::kDroppedByRule),
            kGranuleBytes);
  EXPECT_EQ(bench.memory->statistics().dropped_bytes.load(), kGranuleBytes);
  EXPECT_TRUE(bench.is_zero(pool, 4));
}

// --- pins -----------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, PinnedExtentsAreNotOfferedAndNotReleased) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  bench.write(pool, 4, 9);
  const std::vector<ExtentName> names = bench.resident();  // before the pin
  PreparedPark prepared;
  ASSERT_EQ(bench.memory->prepare_park(names[0], &prepared), Preparation::kDone);
  bench.memory->pin(bench.address(pool, 4) + 5, 1);
  EXPECT_TRUE(bench.resident().empty());
  EXPECT_FALSE(bench.memory->swap_to_parked(prepared, 1));
  bench.memory->cancel_park(prepared);
  EXPECT_EQ(bench.memory->swap_to_absent(names, ProofOfAbsence::kZero), 0u);
  EXPECT_TRUE(bench.holds(pool, 4, 9));
  EXPECT_TRUE(bench.figures(pool).pinned);
  bench.memory->unpin(pool->id, bench.address(pool, 4) + 5, 1);
  EXPECT_EQ(bench.resident().size(), 1u);
}

TEST(DeviceMemoryReleaseTest, APinOfAFreedPoolIsNotItsSuccessors) {
  MemoryBench bench;
  const PoolRecord* freed = bench.pool(128 * kMiB);
  bench.memory->pin(freed->base, freed->bytes);
  const CUdeviceptr base = freed->base;
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  const PoolRecord* pool = bench.pool(128 * kMiB);
  ASSERT_EQ(pool->base, base);
  bench.memory->pin(pool->base, kGranuleBytes);
  bench.memory->unpin(freed->id, base, 128 * kMiB);
  EXPECT_TRUE(bench.figures(pool).pinned);
  bench.memory->unpin(pool->id, pool->base, kGranuleBytes);
  EXPECT_FALSE(bench.figures(pool).pinned);
}

// --- parking ----------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, ParkingAndRestoringKeepEveryByte) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_share = 1.0});
  bench.copy_every_byte = true;
  const PoolRecord* pool = bench.pool(256 * kMiB);
  std::uint32_t end = 0;
  while (end < 20) {
    bench.fault(pool, end);
    end += static_cast<std::uint32_t>(bench.extent_granules(pool, end));
  }
  std::vector<std::uint64_t> contents(end * kGranuleBytes / 8);
  for (std::size_t i = 0; i < contents.size(); ++i) contents[i] = i * 0x9e37'79b9'7f4a'7c15;
  std::memcpy(reinterpret_cast<void*>(pool->base), contents.data(), contents.size() * 8);
  const std::size_t extents = bench.resident().size();
  EXPECT_EQ(bench.park_all(), extents);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_EQ(
      std::memcmp(reinterpret_cast<const void*>(pool->base), contents.data(), contents.size() * 8),
      0);
  EXPECT_EQ(bench.bring_back(bench.parked()), extents);
  EXPECT_EQ(bench.figures(pool).resident, end * kGranuleBytes);
  EXPECT_EQ(bench.figures(pool).parked, 0u);
  EXPECT_EQ(
      std::memcmp(reinterpret_cast<const void*>(pool->base), contents.data(), contents.size() * 8),
      0);
}

TEST(DeviceMemoryReleaseTest, MostRecentlyWrittenExtentsComeFirst) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (const std::uint32_t g : {9u, 3u, 20u, 14u}) bench.fault(pool, g);
  bench.fault(pool, 3);  // again
  std::vector<std::uint32_t> order;
  for (const ExtentName& name : bench.resident()) order.push_back(name.offset);
  EXPECT_EQ(order, (std::vector<std::uint32_t>{3, 14, 20, 9}));
}

TEST(DeviceMemoryReleaseTest, AFullHostBudgetLeavesContentsWhereTheyAre) {
  MemoryBench bench({.host_budget = 4 * kMiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint32_t g = 0; g < 5; ++g) bench.fault(pool, g * 2), bench.write(pool, g * 2, g + 1);
  EXPECT_EQ(bench.park_all(), 2u);
  EXPECT_EQ(bench.figures(pool).resident, 3 * kGranuleBytes);
  for (std::uint32_t g = 0; g < 5; ++g) EXPECT_TRUE(bench.holds(pool, g * 2, g + 1));
}

TEST(DeviceMemoryReleaseTest, StagingSlotsAreUsedAgainForEver) {
  MemoryBench bench({.host_budget = kGiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint64_t round = 1; round <= 300; ++round) {
    ASSERT_EQ(bench.served(pool, 4).kind, AnswerKind::kPresent);
    bench.write(pool, 4, round);
    ASSERT_EQ(bench.park_all(round), 1u) << round;
    ASSERT_EQ(bench.served(pool, 8).kind, AnswerKind::kPresent);
    ASSERT_EQ(bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kZero), kGranuleBytes);
    bench.memory->release_retired();
    ASSERT_TRUE(bench.holds(pool, 4, round));
  }
}

// --- stale names -------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, AStaleNameChangesNothing) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  const std::vector<ExtentName> names = bench.resident();
  PreparedPark first, second;
  ASSERT_EQ(bench.memory->prepare_park(names[0], &first), Preparation::kDone);
  ASSERT_EQ(bench.memory->prepare_park(names[0], &second), Preparation::kDone);
  ASSERT_TRUE(bench.memory->swap_to_parked(first, 1));
  EXPECT_FALSE(bench.memory->swap_to_parked(second, 1)) << "parked already";
  bench.memory->cancel_park(second);
  PreparedPark third;
  EXPECT_EQ(bench.memory->prepare_park(names[0], &third), Preparation::kChanged);
  bench.memory->release_retired();
  EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  EXPECT_EQ(bench.memory->swap_to_absent(names, ProofOfAbsence::kZero), 0u);
  bench.expect_empty();
}

TEST(DeviceMemoryReleaseTest, ANameOfAFreedPoolNeverMeansItsSuccessorAtTheSameAddress) {
  MemoryBench bench;
  const PoolRecord* old_pool = bench.pool(128 * kMiB);
  bench.fault(old_pool, 4);
  const std::vector<ExtentName> names = bench.resident();
  const CUdeviceptr base = old_pool->base;
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  bench.memory->fault({}, true);  // the guard has done what its answer said
  const PoolRecord* pool = bench.pool(128 * kMiB);
  ASSERT_EQ(pool->base, base);
  bench.fault(pool, 4);
  bench.write(pool, 4, 77);
  EXPECT_EQ(bench.memory->swap_to_absent(names, ProofOfAbsence::kZero), 0u);
  PreparedPark prepared;
  EXPECT_EQ(bench.memory->prepare_park(names[0], &prepared), Preparation::kChanged);
  EXPECT_TRUE(bench.holds(pool, 4, 77));
}

TEST(DeviceMemoryReleaseTest, FreeingDuringAPreparedParkOrRestoreLeaksNothing) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  PreparedPark park;
  ASSERT_EQ(bench.memory->prepare_park(bench.resident()[0], &park), Preparation::kDone);
  EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  EXPECT_FALSE(bench.memory->swap_to_parked(park, 1));
  bench.memory->cancel_park(park);
  bench.expect_empty();

  pool = bench.pool(128 * kMiB);
  bench.fault(pool, 4);
  ASSERT_EQ(bench.park_all(), 1u);
  PreparedPark back;
  ASSERT_EQ(bench.memory->prepare_return(bench.parked()[0], 0, &back), Preparation::kDone);
  EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  EXPECT_FALSE(bench.memory->swap_to_resident(back));
  bench.memory->cancel_return(back);
  bench.expect_empty();
}

// The staging mapping of what came back would keep its GPU memory alive.
TEST(DeviceMemoryReleaseTest, FreeingAPoolThatCameBackReturnsItsMemoryAtOnce) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  const PoolRecord* other = bench.pool(128 * kMiB, "other");
  bench.fault(pool, 4);
  ASSERT_EQ(bench.park_all(), 1u);
  PreparedPark back;
  ASSERT_EQ(bench.memory->prepare_return(bench.parked()[0], 0, &back), Preparation::kDone);
  ASSERT_TRUE(bench.memory->swap_to_resident(back));
  EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  bench.expect_sound();
  EXPECT_EQ(bench.memory->free(other->base), CUDA_SUCCESS);
  bench.memory->release_retired();  // the host handle that was swapped out
  bench.expect_empty();
}

// --- slabs --------------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, SlabsMadeAheadSpareTheReleaseTheDriver) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint32_t g = 0; g < 3; ++g) bench.fault(pool, g * 2);
  const std::uint64_t before = bench.driver.calls(Call::cuMemCreate);
  while (bench.memory->make_slabs_ahead()) continue;
  const std::uint64_t creates = bench.driver.calls(Call::cuMemCreate);
  EXPECT_EQ(creates - before, 3u);
  const std::uint64_t maps = bench.driver.calls(Call::cuMemMap);
  EXPECT_EQ(bench.park_all(), 3u);
  EXPECT_EQ(bench.driver.calls(Call::cuMemCreate), creates);
  EXPECT_EQ(bench.driver.calls(Call::cuMemMap), maps + 3u) << "the pool's; windows are there";
}

// What is parked has one mapping, the pool's, after the release; and its slab has a window again
// before the next one.
TEST(DeviceMemoryReleaseTest, WhatIsParkedKeepsNoWindow) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (std::uint32_t g = 0; g < 3; ++g) bench.fault(pool, g * 2);
  while (bench.memory->make_slabs_ahead()) continue;
  EXPECT_EQ(bench.driver.host_mapped_bytes(), 3 * kGranuleBytes);
  ASSERT_EQ(bench.park_all(), 3u);
  EXPECT_EQ(bench.driver.host_mapped_bytes(), 6 * kGranuleBytes);
  while (bench.memory->unmap_spare_windows()) continue;
  EXPECT_EQ(bench.driver.host_mapped_bytes(), 3 * kGranuleBytes);
  for (const ExtentName& name : bench.parked()) {
    PreparedPark back;
    ASSERT_EQ(bench.memory->prepare_return(name, 0, &back), Preparation::kDone);
    ASSERT_TRUE(bench.memory->swap_to_resident(back));
  }
  bench.memory->release_retired();
  EXPECT_EQ(bench.driver.host_mapped_bytes(), 0u);
  while (bench.memory->make_slabs_ahead()) continue;
  EXPECT_EQ(bench.driver.host_mapped_bytes(), 3 * kGranuleBytes);
}

TEST(DeviceMemoryReleaseTest, SlabsGoWithTheLastPool) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 0);
  ASSERT_TRUE(bench.memory->make_slabs_ahead());
  EXPECT_GT(bench.driver.host_bytes(), 0u);
  EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  EXPECT_EQ(bench.driver.host_bytes(), 0u);
  EXPECT_FALSE(bench.memory->make_slabs_ahead());
  bench.expect_empty();
}

// --- ranges ---------------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, ARangeIsClippedToItsPoolWhateverItsSize) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  for (const std::size_t bytes : {SIZE_MAX, std::size_t{1} << 63, std::size_t{10} << 30}) {
    const std::vector<AbiRun> runs = bench.memory->granule_runs(bench.address(pool, 60), bytes);
    ASSERT_EQ(runs.size(), 1u);
    EXPECT_EQ(runs[0].first, bench.granule(pool, 60));
    EXPECT_EQ(runs[0].count, 4u);
  }
  EXPECT_TRUE(bench.memory->granule_runs(pool->base, 0).empty());
  EXPECT_TRUE(bench.memory->granule_runs(pool->base + pool->mapped_bytes, 1).empty());
}

// --- present runs ---------------------------------------------------------------------

TEST(DeviceMemoryReleaseTest, PresentRunsAreThePresentPartsOfARange) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 8, 8, false);
  bench.fault(pool, 20, 1, false);
  const std::vector<AbiRun> runs =
      bench.memory->present_runs(bench.address(pool, 10) + 7, 12 * kGranuleBytes);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].first, bench.granule(pool, 10));
  EXPECT_EQ(runs[0].count, 6u);
  EXPECT_EQ(runs[1].first, bench.granule(pool, 20));
  EXPECT_EQ(runs[1].count, 1u);
  EXPECT_TRUE(bench.memory->present_runs(bench.address(pool, 0), kGranuleBytes).empty());
  EXPECT_TRUE(bench.memory->present_runs(bench.address(pool, 8), 0).empty());
}

}  // namespace
}  // namespace kvshim::vmm::testing
