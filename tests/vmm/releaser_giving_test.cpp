// Memory that is wanted back before the idle timeout.
#include <gtest/gtest.h>

#include "tests/vmm/engine_bench.h"
#include "tests/vmm/fake_pressure.h"

namespace kvshim::vmm::testing {
namespace {

ReleaseSettings patient() {
  ReleaseSettings settings;
  settings.idle_timeout = 1h;
  return settings;
}

class GivingTest : public ::testing::Test {
 protected:
  explicit GivingTest(std::uint64_t host_budget = kGiB)
      : bench_({.host_budget = host_budget,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .pressure = &neighbours_}) {
    pool_ = bench_.pool(256 * kMiB);
  }
  /// Granules far enough from each other not to be merged with their neighbours.
  void write(const std::vector<std::int64_t>& slots, std::uint64_t value) {
    bench_.write_granules(pool_, slots, value);
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  void begin(ReleaseSettings settings = patient()) { bench_.release_when_idle(settings); }
  bool comes_down_to(std::uint64_t granules) {
    return eventually([&] { return bench_.memory->physical().device == granules * kGranuleBytes; });
  }
  void set_limit(std::uint64_t granules) {
    bench_.memory->limits().limit.store(bench_.memory->physical().zero + granules * kGranuleBytes);
    bench_.releaser->look_now();
  }
  void stays_as_it_is() {
    const std::uint64_t before = bench_.memory->physical().device;
    std::this_thread::sleep_for(300ms);
    EXPECT_EQ(bench_.memory->physical().device, before);
  }

  FakePressure neighbours_;
  EngineBench bench_;
  const PoolRecord* pool_ = nullptr;
};

// --- neighbours -----------------------------------------------------------------------

TEST_F(GivingTest, AQuietPoolGivesWhatIsAskedForAndNoMore) {
  begin();
  write({10, 30, 50, 70}, 7);
  neighbours_.wanted.store(2 * kGranuleBytes);
  bench_.releaser->look_now();
  ASSERT_TRUE(comes_down_to(2));
  stays_as_it_is();
  EXPECT_EQ(neighbours_.begun.load(), 1u);
  EXPECT_EQ(neighbours_.given.load(), 2 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().given_bytes.load(), 2 * kGranuleBytes);
  for (const std::uint32_t g : {10u, 30u, 50u, 70u}) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

TEST_F(GivingTest, WhatIsZeroGoesFirstThenWhatWasWrittenLongestAgo) {
  begin();
  write({10}, 7);
  write({30}, 8);
  write({50}, 0);
  std::memset(reinterpret_cast<void*>(bench_.address(pool_, 50)), 0, kGranuleBytes);
  neighbours_.wanted.store(2 * kGranuleBytes);
  ASSERT_TRUE(comes_down_to(1));
  EXPECT_FALSE(bench_.writable(pool_, 50)) << "absent";
  EXPECT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
  ASSERT_EQ(bench_.parked().size(), 1u);
  EXPECT_EQ(bench_.parked()[0].offset, 10u);
}

TEST_F(GivingTest, NothingIsGivenWhileWorkIsUnfinished) {
  begin();
  write({10}, 7);
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(pool_, {10}, 8);
  neighbours_.wanted.store(kGiB);
  stays_as_it_is();
  EXPECT_GE(neighbours_.refusals.load(), 1u) << "who asks is told at once";
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(comes_down_to(0));
  EXPECT_TRUE(bench_.holds(pool_, 10, 8));
}

TEST_F(GivingTest, NothingIsGivenBeforeAQuietMoment) {
  begin();
  write({10}, 7);
  neighbours_.wanted.store(kGiB);
  ASSERT_TRUE(comes_down_to(0));
  EXPECT_GE(neighbours_.idle_ms.load(), 20u);
}

TEST_F(GivingTest, TheReserveIsNeverGiven) {
  begin();
  write({10, 30, 50, 70}, 7);
  bench_.memory->limits().reserve.store(bench_.memory->physical().zero + 3 * kGranuleBytes);
  neighbours_.wanted.store(kGiB);
  ASSERT_TRUE(comes_down_to(3));
  stays_as_it_is();
  // Nor a part of it: what lies above it is less than the smallest piece.
  bench_.memory->limits().reserve.fetch_sub(kMiB);
  neighbours_.wanted.fetch_add(kGiB);
  stays_as_it_is();
}

TEST_F(GivingTest, APausedProcessGivesNothing) {
  bench_.memory->limits().paused.store(true);
  ReleaseSettings settings = patient();
  settings.idle_timeout = 60ms;
  begin(settings);
  write({10, 30}, 7);
  neighbours_.wanted.store(kGiB);
  stays_as_it_is();
  bench_.memory->limits().paused.store(false);
  ASSERT_TRUE(comes_down_to(0));
}

// Nobody asks before the timeout for what a request still needs.
TEST_F(GivingTest, AShortPauseDropsNothing) {
  ReleaseSettings settings = patient();
  settings.disposable = true;
  begin(settings);
  write({10, 30}, 7);
  neighbours_.wanted.store(kGiB);
  ASSERT_TRUE(comes_down_to(0));
  EXPECT_EQ(bench_.figures(pool_).parked, 2 * kGranuleBytes);
}

class WithoutHostMemory : public GivingTest {
 protected:
  WithoutHostMemory() : GivingTest(0) {}
};

TEST_F(WithoutHostMemory, ContentsStayWhereTheyAre) {
  ReleaseSettings settings = patient();
  settings.disposable = true;  // but not idle for long enough
  begin(settings);
  write({10, 30}, 7);
  neighbours_.wanted.store(kGiB);
  stays_as_it_is();
  EXPECT_GE(neighbours_.refusals.load(), 1u);
  EXPECT_TRUE(bench_.holds(pool_, 30, 7));
}

TEST_F(GivingTest, WorkInTheMiddleLosesNothing) {
  begin();
  write({10, 30, 50}, 7);
  bench_.driver.hold(bench_.memory->kernels().stream(), true);  // giving stands at its scan
  neighbours_.wanted.store(kGiB);
  std::this_thread::sleep_for(100ms);
  write({10}, 9);
  bench_.driver.hold(bench_.memory->kernels().stream(), false);
  ASSERT_TRUE(comes_down_to(0));
  EXPECT_TRUE(bench_.holds(pool_, 10, 9));
  EXPECT_TRUE(bench_.holds(pool_, 50, 7));
}

// --- limits and words -----------------------------------------------------------------

TEST_F(GivingTest, ALoweredLimitHoldsForAnIdleProcess) {
  begin();
  write({10, 30, 50, 70}, 7);
  set_limit(1);
  ASSERT_TRUE(comes_down_to(1));
  stays_as_it_is();
  EXPECT_EQ(bench_.memory->statistics().limit_bytes.load(), 3 * kGranuleBytes);
  EXPECT_TRUE(bench_.releaser->settled());
  for (const std::uint32_t g : {10u, 30u, 50u, 70u}) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

TEST_F(GivingTest, ALimitHoldsForAPausedProcess) {
  begin();
  write({10, 30}, 7);
  bench_.memory->limits().paused.store(true);
  set_limit(1);
  ASSERT_TRUE(comes_down_to(1));
}

TEST_F(GivingTest, ABusyProcessIsBroughtDownInItsNextQuietMoment) {
  begin();
  write({10, 30}, 7);
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(pool_, {30}, 8);
  set_limit(1);
  stays_as_it_is();
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(comes_down_to(1));
}

TEST_F(GivingTest, AWordReleasesWhatIsIdleNow) {
  begin();
  write({10, 30}, 7);
  bench_.releaser->release_now();
  EXPECT_FALSE(bench_.releaser->settled());
  ASSERT_TRUE(comes_down_to(0));
  ASSERT_TRUE(eventually([&] { return bench_.releaser->settled(); }));
  EXPECT_TRUE(bench_.holds(pool_, 10, 7));
}

TEST_F(GivingTest, AnAllocationOfTheEngineItselfIsMadeWayFor) {
  begin();
  write({10, 30, 50}, 7);
  const std::uint64_t wanted = bench_.driver.gpu_free() + 2 * kGranuleBytes;
  bench_.releaser->make_way_for(wanted);
  ASSERT_TRUE(eventually([&] { return bench_.driver.gpu_free() >= wanted; }));
  bench_.releaser->make_way_for(0);
  EXPECT_EQ(bench_.memory->physical().device, kGranuleBytes);
}

TEST_F(GivingTest, MakingWayEndsWhenNothingIsLeft) {
  begin();
  write({10}, 7);
  bench_.releaser->make_way_for(16 * kGiB);
  ASSERT_TRUE(eventually([&] { return !bench_.releaser->making_way(); }));
  EXPECT_EQ(bench_.memory->physical().device, 0u);
}

// --- wakeup -----------------------------------------------------------------------------

TEST(WakeupTest, EndsASleepEarlyAndIsNotLost) {
  Wakeup wakeup;
  EXPECT_FALSE(wakeup.wait_for(1ms));
  wakeup.wake();
  EXPECT_TRUE(wakeup.wait_for(10s));
  EXPECT_FALSE(wakeup.wait_for(1ms)) << "once each";
  std::thread waker([&] {
    std::this_thread::sleep_for(20ms);
    wakeup.wake();
  });
  EXPECT_TRUE(wakeup.wait_for(10s));
  waker.join();
}

}  // namespace
}  // namespace kvshim::vmm::testing
