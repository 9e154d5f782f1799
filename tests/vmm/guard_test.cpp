// The guards' own source on the host, served by the real fault server.
#include <gtest/gtest.h>

#include <set>

#include "tests/vmm/engine_bench.h"

namespace kvshim::vmm::testing {
namespace {

class GuardTest : public ::testing::Test {
 protected:
  // Runs a guard to its end.
  void guard(const LinearWrite& write) {
    bench_.submit(
        bench_.stream,
        [&] {
          EXPECT_EQ(bench_.memory->kernels().launch_linear_guard(bench_.stream, write),
                    CUDA_SUCCESS);
        },
        {}, [] {});
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  void guard_runs(const std::vector<AbiRun>& runs) {
    bench_.submit(
        bench_.stream,
        [&] {
          EXPECT_EQ(bench_.memory->kernels().launch_fixed_guard(bench_.stream, runs), CUDA_SUCCESS);
        },
        {}, [] {});
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  std::set<std::uint32_t> present(const PoolRecord* pool) const {
    std::set<std::uint32_t> found;
    for (std::uint32_t g = 0; g < pool->mapped_bytes / kGranuleBytes; ++g) {
      if (!bench_.writable(pool, g)) continue;
      found.insert(g);
      EXPECT_TRUE(bench_.bit(bench_.granule(pool, g))) << g;
    }
    return found;
  }
  LinearWrite simple(const std::vector<std::int64_t>& slots, const PoolRecord* pool) const {
    const PoolRecord* const pools[] = {pool};
    return bench_.slots_of(slots, pools);
  }
  using Granules = std::set<std::uint32_t>;

  EngineBench bench_{{.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .rows_ahead = false}};
};

TEST_F(GuardTest, MakesTheSlotsGranulesPresent) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {3, 40, 17};
  guard(simple(slots, pool));
  EXPECT_EQ(present(pool), (Granules{3, 17, 40}));
  EXPECT_EQ(bench_.requests(), 1u) << "all that is missing is asked for at once";
}

TEST_F(GuardTest, AsksNothingWhenAllIsPresent) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {3, 40};
  guard(simple(slots, pool));
  guard(simple(slots, pool));
  EXPECT_EQ(bench_.requests(), 1u);
}

TEST_F(GuardTest, ReadsSlotsOf32Bits) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int32_t> slots = {5, -1, 6, 50};
  LinearWrite write = simple({}, pool);
  write.slots = reinterpret_cast<std::uint64_t>(slots.data());
  write.slot_bytes = 4;
  write.count = 4;
  guard(write);
  EXPECT_EQ(present(pool), (Granules{5, 6, 50}));
}

TEST_F(GuardTest, SkipsSlotsThatAreNotWritten) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {-1, 3, INT64_MIN, 0, 9};
  LinearWrite write = simple(slots, pool);
  guard(write);
  EXPECT_EQ(present(pool), (Granules{0, 3, 9}));
  write.skip_below = 8;  // an engine whose first block is a dummy
  const std::vector<std::int64_t> more = {1, 7, 8, 20};
  write.slots = reinterpret_cast<std::uint64_t>(more.data());
  write.count = 4;
  guard(write);
  EXPECT_EQ(present(pool), (Granules{0, 3, 8, 9, 20}));
}

TEST_F(GuardTest, ComputesBlocksAndSlotsWithinThem) {
  const PoolRecord* pool = bench_.pool(512 * kMiB);
  // 16 slots a block of 8 MiB; slots of 256 KiB, spread by 512 KiB.
  LinearWrite write{};
  const std::vector<std::int64_t> slots = {0, 4, 15, 16, 5 * 16 + 7};
  write.slots = reinterpret_cast<std::uint64_t>(slots.data());
  write.slot_bytes = 8;
  write.count = 5;
  write.block = 16;
  write.destinations = 1;
  write.destination[0] = {pool->base, 8 * kMiB,   512 * 1024,
                          256 * 1024, pool->base, pool->base + pool->mapped_bytes};
  guard(write);
  std::set<std::uint32_t> expected;
  for (const std::int64_t slot : slots) {
    const auto s = static_cast<std::uint64_t>(slot);
    const std::uint64_t at = s / 16 * 8 * kMiB + s % 16 * 512 * 1024;
    expected.insert(static_cast<std::uint32_t>(at / kGranuleBytes));
  }
  EXPECT_EQ(present(pool), expected);
}

TEST_F(GuardTest, ADestinationOverTwoGranulesNeedsBoth) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {0};
  LinearWrite write = simple(slots, pool);
  write.destination[0].base = pool->base + kGranuleBytes - 1;
  write.destination[0].length = 2;
  guard(write);
  EXPECT_EQ(present(pool), (Granules{0, 1}));
  write.destination[0].base = pool->base + 5 * kGranuleBytes - 2;
  guard(write);
  EXPECT_EQ(present(pool), (Granules{0, 1, 4})) << "the last byte decides";
}

// What is looked up quickly is what fits in 32 bits, for K and V.
TEST_F(GuardTest, NumbersBeyond32BitsAreNotCutOff) {
  const PoolRecord* pool = bench_.pool(5 * kGiB);
  guard(simple({0}, pool));
  const std::vector<std::int64_t> slots = {std::int64_t{1} << 32};  // cut off: slot 0
  LinearWrite write = simple(slots, pool);
  write.block = 1;
  write.destination[0] = {pool->base, (std::uint64_t{1} << 32) + 1,   0, 1,
                          pool->base, pool->base + pool->mapped_bytes};
  guard(write);  // (2^32 + 1) * 2^32 is 4 GiB modulo 2^64
  EXPECT_EQ(present(pool), (Granules{0, 2048}));
  write.block = std::uint64_t{1} << 33;
  write.destination[0].slot_stride = kGranuleBytes;
  const std::vector<std::int64_t> in_first_block = {7};
  write.slots = reinterpret_cast<std::uint64_t>(in_first_block.data());
  guard(write);
  EXPECT_EQ(present(pool), (Granules{0, 7, 2048}));
}

TEST_F(GuardTest, EachDestinationOfASlotIsLookedAt) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {0};
  LinearWrite write = simple(slots, pool);
  for (std::uint32_t destinations = 1; destinations <= kMaxDestinations; ++destinations) {
    const std::uint32_t d = destinations - 1;
    write.destinations = destinations;
    write.destination[d] = write.destination[0];
    write.destination[d].base = pool->base + d * 4 * kGranuleBytes;
    guard(write);
    EXPECT_TRUE(bench_.bit(bench_.granule(pool, d * 4))) << d;
  }
}

TEST_F(GuardTest, ServesKAndVAndSeveralPools) {
  const PoolRecord* k = bench_.pool(128 * kMiB, "k");
  const PoolRecord* v = bench_.pool(128 * kMiB, "v");
  const std::vector<std::int64_t> slots = {2, 30};
  const PoolRecord* const pools[] = {k, v};
  guard(bench_.slots_of(slots, pools));
  EXPECT_EQ(present(k), (Granules{2, 30}));
  EXPECT_EQ(present(v), (Granules{2, 30}));
  EXPECT_EQ(bench_.requests(), 1u);
}

TEST_F(GuardTest, DestinationsWithoutLengthAreNone) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {2};
  LinearWrite write = simple(slots, pool);
  write.destination[0].length = 0;
  guard(write);
  EXPECT_EQ(present(pool), Granules{});
}

TEST_F(GuardTest, AnAddressOutsideItsPoolAsksForTheWholePool) {
  const PoolRecord* pool = bench_.pool(64 * kMiB, "a");
  const PoolRecord* other = bench_.pool(64 * kMiB, "b");
  const std::vector<std::int64_t> slots = {32};  // one past the end
  guard(simple(slots, pool));
  EXPECT_EQ(present(pool).size(), 32u);
  EXPECT_EQ(present(other).size(), 0u);
}

TEST_F(GuardTest, ANegativeSlotThatIsNotSkippedAsksForTheWholePool) {
  const PoolRecord* pool = bench_.pool(64 * kMiB);
  const std::vector<std::int64_t> slots = {-5};
  LinearWrite write = simple(slots, pool);
  write.skip_below = INT64_MIN;
  guard(write);
  EXPECT_EQ(present(pool).size(), 32u);
}

TEST_F(GuardTest, AnAddressThatWrapsAroundAsksForTheWholePool) {
  const PoolRecord* pool = bench_.pool(64 * kMiB);
  const std::vector<std::int64_t> slots = {0};
  LinearWrite write = simple(slots, pool);
  write.destination[0].length = UINT64_MAX - 5;
  guard(write);
  EXPECT_EQ(present(pool).size(), 32u);
}

TEST_F(GuardTest, ManySlotsOfFewGranulesAskForEachOnce) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  std::vector<std::int64_t> slots(20000);
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<std::int64_t>(i % 7 * 5);
  guard(simple(slots, pool));
  EXPECT_EQ(present(pool), (Granules{0, 5, 10, 15, 20, 25, 30}));
  EXPECT_EQ(bench_.requests(), 1u);
  EXPECT_EQ(bench_.memory->kernels().channel()->wanted_count, 7u);
}

TEST(GuardLimitTest, MoreMissingGranulesThanOneRequestHoldsTakeSeveral) {
  EngineBench bench({.host_budget = kGiB}, 16 * kGiB);
  const PoolRecord* pool = bench.pool(8 * kGiB);  // 4096 granules
  const AbiRun whole[] = {{bench.granule(pool, 0), 4096}, {bench.granule(pool, 7), 9}};
  bench.submit(
      bench.stream,
      [&] {
        EXPECT_EQ(bench.memory->kernels().launch_fixed_guard(bench.stream, whole), CUDA_SUCCESS);
      },
      {}, [] {});
  ASSERT_TRUE(bench.driver.drain(bench.stream));
  for (std::uint32_t g = 0; g < 4096; ++g) ASSERT_TRUE(bench.writable(pool, g));
  EXPECT_EQ(bench.requests(), 2u);
}

TEST_F(GuardTest, FixedRunsAreMadePresentExactly) {
  const PoolRecord* pool = bench_.pool(256 * kMiB);
  std::vector<AbiRun> runs;
  Granules expected;
  for (std::uint32_t i = 0; i < 40; ++i) {  // more than one launch carries
    runs.push_back({bench_.granule(pool, 3 * i), 2});
    expected.insert(3 * i);
    expected.insert(3 * i + 1);
  }
  guard_runs(runs);
  EXPECT_EQ(present(pool), expected);
}

TEST_F(GuardTest, RunsOfNoPoolEndAtOnce) {
  bench_.pool(64 * kMiB);
  guard_runs({{900, 3}});
  EXPECT_EQ(bench_.requests(), 1u);
}

// A graph that is replayed after its pool was freed writes nothing there any
// more, but its guard still runs.
TEST_F(GuardTest, AGuardOfAFreedPoolIsNoErrorToTell) {
  const PoolRecord* pool = bench_.pool(64 * kMiB);
  const GranuleIndex granule = bench_.granule(pool, 3);
  EXPECT_EQ(bench_.memory->free(pool->base), CUDA_SUCCESS);
  guard_runs({{granule, 1}});
  for (const Event& event : bench_.events()) EXPECT_NE(event.level, EventLevel::kError);
}

TEST_F(GuardTest, TwoStreamsAreServedOneAfterTheOther) {
  const PoolRecord* pool = bench_.pool(512 * kMiB);
  const CUstream other = bench_.new_stream();
  std::vector<std::vector<std::int64_t>> slots;
  for (std::int64_t i = 0; i < 60; ++i) slots.push_back({i * 2, 255 - i * 2});
  for (std::size_t i = 0; i < slots.size(); ++i) {
    bench_.write_granules_on(i % 2 == 0 ? bench_.stream : other, pool, slots[i], i + 1);
  }
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  ASSERT_TRUE(bench_.driver.drain(other));
  EXPECT_EQ(present(pool).size(), 120u);
  for (std::uint32_t i = 0; i < 60; ++i) EXPECT_TRUE(bench_.holds(pool, i * 2, i + 1));
}

TEST_F(GuardTest, ParkedGranulesComeBackWithTheirContents) {
  const PoolRecord* pool = bench_.pool(128 * kMiB);
  const PoolRecord* sibling = bench_.pool(128 * kMiB);
  const std::vector<std::int64_t> slots = {1, 2, 3, 20};
  bench_.write_granules(pool, slots, 11);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  for (std::uint32_t g : {1u, 2u, 3u, 20u}) bench_.write(sibling, g, 22 + g);
  // As the releasing thread does: bits first.
  std::vector<AbiRun> runs;
  for (const ExtentName& name : bench_.resident()) {
    runs.push_back({bench_.arena->granule(name.address), order_granules(name.order)});
  }
  ASSERT_EQ(bench_.memory->kernels().launch_clear(runs), CUDA_SUCCESS);
  ASSERT_TRUE(bench_.driver.drain(bench_.memory->kernels().stream()));
  ASSERT_EQ(bench_.park_all(), 8u);
  const std::vector<std::int64_t> again = {2, 20};
  bench_.write_granules(pool, again, 33);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  EXPECT_EQ(bench_.figures(pool).resident, 2 * kGranuleBytes);
  EXPECT_TRUE(bench_.holds(pool, 1, 11) && bench_.holds(pool, 3, 11));
  EXPECT_TRUE(bench_.holds(pool, 2, 33) && bench_.holds(pool, 20, 33));
  for (std::uint32_t g : {1u, 2u, 3u, 20u}) EXPECT_TRUE(bench_.holds(sibling, g, 22 + g));
}

TEST(GuardLimitTest, EndsWhenNothingMoreCanBeHad) {
  EngineBench bench({.host_budget = 0}, 2 * kGiB);
  const PoolRecord* pool = bench.pool(64 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free());
  const std::vector<std::int64_t> slots = {3};
  const PoolRecord* const pools[] = {pool};
  bench.submit(
      bench.stream,
      [&] {
        EXPECT_EQ(
            bench.memory->kernels().launch_linear_guard(bench.stream, bench.slots_of(slots, pools)),
            CUDA_SUCCESS);
      },
      {}, [] {});
  EXPECT_TRUE(bench.driver.drain(bench.stream));
  EXPECT_FALSE(bench.bit(bench.granule(pool, 3)));
}

// More runs than one launch holds: the second guard of the work says that it is not the first.
TEST(GuardPlaces, ChunksBehindTheFirstSaySo) {
  EngineBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .rows_ahead = false});
  const PoolRecord* const pool = bench.pool(64 * kGranuleBytes);
  const auto told = [&] {
    return std::atomic_ref(bench.memory->kernels().channel()->request_kind).load() & kBehindFlag;
  };
  std::vector<AbiRun> runs;
  for (std::uint32_t i = 0; i < kMaxFixedRuns; ++i) runs.push_back({bench.granule(pool, 2 * i), 1});
  const auto guard = [&](GuardPlace place) {
    bench.submit(
        bench.stream,
        [&] {
          EXPECT_EQ(bench.memory->kernels().launch_fixed_guard(bench.stream, runs, place),
                    CUDA_SUCCESS);
        },
        {}, [] {});
    ASSERT_TRUE(bench.driver.drain(bench.stream));
  };
  guard(GuardPlace::kFirst);
  EXPECT_EQ(told(), 0u);
  runs.push_back({bench.granule(pool, 2 * kMaxFixedRuns), 1});  // all others are present
  guard(GuardPlace::kFirst);
  EXPECT_EQ(told(), kBehindFlag);
  runs = {{bench.granule(pool, 1), 1}};
  guard(GuardPlace::kBehindAnother);
  EXPECT_EQ(told(), kBehindFlag);
}

}  // namespace
}  // namespace kvshim::vmm::testing
