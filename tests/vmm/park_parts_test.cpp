// An extent that writing has not passed yet: its granules are parked by themselves where writing
// stopped, and what was never written becomes absent.
#include "vmm/park_parts.h"

#include <gtest/gtest.h>

#include "tests/vmm/random.h"
#include "tests/vmm/rows_bench.h"

namespace kvshim::vmm::testing {
namespace {

ExtentName looked_at(std::uint8_t order, std::uint16_t zero) {
  ExtentName name;
  name.order = order;
  name.by_granule = true;
  name.zero_granules = zero;
  return name;
}

using Parts = std::vector<ParkPart>;

TEST(ParkPartsTest, TheLastWrittenGranuleIsOneByItself) {
  EXPECT_EQ(parts_of(looked_at(2, 0b1110), 2), (Parts{{0, false}, {0, true}, {1, true}}));
  EXPECT_EQ(parts_of(looked_at(2, 0b1100), 2), (Parts{{0, false}, {0, false}, {1, true}}));
  EXPECT_EQ(parts_of(looked_at(2, 0b1000), 2), (Parts{{1, false}, {0, false}, {0, true}}));
  EXPECT_EQ(parts_of(looked_at(2, 0), 2), (Parts{{1, false}, {0, false}, {0, false}}));
  EXPECT_EQ(parts_of(looked_at(0, 0), 2), (Parts{{0, false}}));
}

TEST(ParkPartsTest, WhatIsCopiedComesInPartsOfAtMostTheLargest) {
  EXPECT_EQ(parts_of(looked_at(4, 0xf000), 2),
            (Parts{{2, false}, {2, false}, {1, false}, {0, false}, {0, false}, {2, true}}));
  EXPECT_EQ(parts_of(looked_at(4, 0xfffe), 2),
            (Parts{{0, false}, {0, true}, {1, true}, {2, true}, {3, true}}));
}

TEST(ParkPartsTest, WhateverIsZeroThePartsCoverTheExtentOnce) {
  Random random(77);
  for (int round = 0; round < 2000; ++round) {
    const auto order = static_cast<std::uint8_t>(random() % kOrders);
    const std::uint32_t granules = order_granules(order);
    const auto zero = static_cast<std::uint16_t>(random() & ((1u << granules) - 1));
    const auto largest = static_cast<std::uint8_t>(random() % kOrders);
    const ExtentName name = looked_at(order, zero);
    std::uint32_t at = 0;
    for (const ParkPart& part : parts_of(name, largest)) {
      ASSERT_EQ(at % order_granules(part.order), 0u);
      if (!part.zero) {
        ASSERT_LE(part.order, largest);
      }
      for (std::uint32_t i = 0; i < order_granules(part.order); ++i, ++at) {
        ASSERT_EQ(part.zero, (zero >> at & 1) != 0) << "granule " << at << " of " << zero;
        if (at + 1 == written_granules(name)) {
          ASSERT_EQ(part.order, 0);
        }
      }
    }
    ASSERT_EQ(at, granules);
  }
}

// --- with the memory ------------------------------------------------------------------

/// A sequence of faults whose last extent has four granules, of which two are written.
class FrontBench : public EngineBench {
 public:
  static constexpr std::uint32_t kFront = 4;
  FrontBench() : EngineBench({.host_budget = kGiB, .rows_ahead = false}) {
    pool_ = pool(64 * kGranuleBytes);
    for (const std::int64_t slot : {0, 1, 2, 3, 4, 5}) {
      write_granules(pool_, {slot}, static_cast<std::uint64_t>(100 + slot));
      EXPECT_TRUE(driver.drain(stream));
    }
    EXPECT_EQ(extent_granules(pool_, kFront), 4u);
  }
  void expect_contents(std::uint32_t written = 6) const {
    for (std::uint32_t row = 0; row < written; ++row) {
      EXPECT_TRUE(holds(pool_, row, 100 + row)) << row;
    }
    for (std::uint32_t row = written; row < 12; ++row) EXPECT_TRUE(is_zero(pool_, row)) << row;
  }
  ExtentName front() const {
    for (ExtentName name : resident()) {
      if (name.offset != kFront) continue;
      EXPECT_TRUE(name.next_write);
      name.by_granule = true;
      name.zero_granules = 0b1100;
      return name;
    }
    ADD_FAILURE() << "no extent at the front";
    return {};
  }
  const PoolRecord* pool_ = nullptr;
};

TEST(FrontTest, WhatWasNeverWrittenBecomesAbsentAndTheNextFaultIsExpected) {
  FrontBench bench;
  const ExtentName front = bench.front();
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(std::span(&front, 1));
  ASSERT_EQ(blocks.size(), 1u);
  EXPECT_TRUE(blocks[0].by_granule);
  EXPECT_EQ(blocks[0].zero_granules, 0b1100);
  const std::uint64_t device = bench.memory->physical().device;
  EXPECT_EQ(bench.park(blocks), 1u);
  EXPECT_EQ(bench.memory->physical().device, device - 4 * kGranuleBytes);
  EXPECT_EQ(bench.figures(bench.pool_).parked, 2 * kGranuleBytes);
  EXPECT_EQ(bench.memory->host_in_use(), 2 * kGranuleBytes);
  EXPECT_FALSE(bench.writable(bench.pool_, 6));
  EXPECT_EQ(bench.memory->broken_invariant(), "");
  bench.expect_contents();
  bench.fault(bench.pool_, 6);
  EXPECT_EQ(bench.extent_granules(bench.pool_, 6), 2u) << "in sequence";
  bench.expect_contents();
}

TEST(FrontTest, ARefusedMappingOfAPartLeavesTheExtentAsItWas) {
  for (const Call call : {Call::cuMemMap, Call::cuMemSetAccess}) {
    for (const std::uint64_t nth : {1u, 2u, 3u}) {
      FrontBench bench;
      PreparedPark prepared;
      ASSERT_EQ(bench.memory->prepare_park(bench.front(), &prepared), Preparation::kDone);
      ASSERT_EQ(prepared.parts.size(), 3u);
      EXPECT_EQ(prepared.zero_bytes(), 2 * kGranuleBytes);
      bench.copy(prepared);
      bench.driver.fail(call, nth, CUDA_ERROR_UNKNOWN);
      EXPECT_FALSE(bench.memory->swap_to_parked(prepared, 1));
      bench.memory->cancel_park(prepared);
      EXPECT_EQ(bench.memory->host_in_use(), 0u);
      EXPECT_EQ(bench.extent_granules(bench.pool_, FrontBench::kFront), 4u);
      EXPECT_EQ(bench.memory->broken_invariant(), "");
      bench.expect_contents();
    }
  }
}

TEST(FrontTest, AReleaseLooksAtItsGranulesAndTheNextWorkHasItBackFirst) {
  FrontBench bench;
  ReleaseSettings settings;
  settings.idle_timeout = 60ms;
  settings.restore_time = 5s;
  bench.release_when_idle(settings);
  bench.write_granules(bench.pool_, {5}, 105);
  ASSERT_TRUE(bench.driver.drain(bench.stream));
  ASSERT_TRUE(eventually([&] { return bench.memory->physical().device == 0; }));
  EXPECT_EQ(bench.figures(bench.pool_).parked, 6 * kGranuleBytes);
  bench.expect_contents();
  // Room for one granule: it is the one where writing goes on, though others were read later.
  bench.memory->set_tick(1000);
  bench.readers_read(bench.pool_, {0}, 999);
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor - kGranuleBytes);
  bench.memory->gpu_free();
  bench.write_granules(bench.pool_, {5}, 105);
  ASSERT_TRUE(bench.driver.drain(bench.stream));
  EXPECT_EQ(bench.figures(bench.pool_).resident, kGranuleBytes);
  for (const ExtentName& name : bench.resident()) EXPECT_EQ(name.offset, 5u);
  bench.expect_contents();
}

// Work at any moment of a release whose fronts come in parts.
TEST(FrontTest, WorkAtAnyMomentLosesNothing) {
  EngineBench bench({.host_budget = kGiB});
  const PoolRecord* pool = bench.pool(256 * kGranuleBytes);
  ReleaseSettings settings;
  settings.idle_timeout = 20ms;
  settings.restore_time = 2ms;
  bench.release_when_idle(settings);
  Random random(5);
  for (std::uint32_t row = 0; row < 120; ++row) {
    bench.write_granules(pool, {row}, 100 + row);
    ASSERT_TRUE(bench.driver.drain(bench.stream));
    if (random() % 4 == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(10000 + random() % 40000));
    }
    for (std::uint32_t before = 0; before <= row; ++before) {
      ASSERT_TRUE(bench.holds(pool, before, 100 + before)) << before << " after " << row;
    }
    ASSERT_TRUE(bench.is_zero(pool, row + 1));
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
