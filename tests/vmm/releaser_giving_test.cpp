// Memory that is wanted back before the idle timeout.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

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
  EXPECT_EQ(neighbours_.endings.load(), 1u);
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

// Looking at all of a large GPU takes longer than parking what a fault lacks.
TEST_F(GivingTest, NoMoreIsLookedAtThanIsWanted) {
  ReleaseSettings settings = patient();
  settings.seen_at_once = 2 * kGranuleBytes;
  begin(settings);
  for (std::int64_t g = 10; g < 90; g += 10) write({g}, 7);
  std::memset(reinterpret_cast<void*>(bench_.address(pool_, 70)), 0, kGranuleBytes);
  neighbours_.wanted.store(2 * kGranuleBytes);
  bench_.releaser->look_now();
  ASSERT_TRUE(comes_down_to(6));
  std::vector<std::uint32_t> parked;
  for (const ExtentName& extent : bench_.parked()) parked.push_back(extent.offset);
  EXPECT_THAT(parked, ::testing::UnorderedElementsAre(10u, 20u)) << "the zeros were not looked at";
  neighbours_.wanted.store(8 * kGranuleBytes);  // in all
  bench_.releaser->look_now();
  ASSERT_TRUE(comes_down_to(0));
  EXPECT_EQ(bench_.figures(pool_).parked, 7 * kGranuleBytes);
}

// Not only when all that was wanted at first is parked.
TEST_F(GivingTest, WhatOthersGaveMeanwhileIsNotGivenTwice) {
  constexpr std::uint64_t kGranules = 200;
  const PoolRecord* const large = bench_.pool(kGiB, "large");
  std::vector<std::int64_t> slots;
  for (std::uint64_t g = 0; g < kGranules; ++g) slots.push_back(static_cast<std::int64_t>(g));
  begin();
  bench_.write_granules(large, slots, 7);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  // The releasing thread outlives this function.
  const auto others_give = std::make_shared<std::atomic<bool>>(true);
  neighbours_.on_gift = [this, others_give] {
    if (*others_give) neighbours_.wanted.store(1);
  };
  neighbours_.wanted.store(kGiB);
  bench_.releaser->look_now();
  ASSERT_TRUE(eventually([&] { return neighbours_.endings.load() != 0; }));
  EXPECT_GT(neighbours_.given.load(), 0u);
  EXPECT_LT(neighbours_.given.load(), 256 * kMiB);
  for (std::uint32_t g = 0; g < kGranules; ++g) EXPECT_TRUE(bench_.holds(large, g, 7));
  *others_give = false;
  neighbours_.wanted.store(2 * kGiB);
  EXPECT_TRUE(comes_down_to(0)) << "the rest is found again";
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

TEST_F(WithoutHostMemory, ZerosAreLookedForBehindContentsThatMustStay) {
  ReleaseSettings settings = patient();
  settings.seen_at_once = 2 * kGranuleBytes;
  begin(settings);
  for (std::int64_t g = 10; g < 90; g += 10) write({g}, 7);
  std::memset(reinterpret_cast<void*>(bench_.address(pool_, 70)), 0, kGranuleBytes);
  neighbours_.wanted.store(2 * kGranuleBytes);
  ASSERT_TRUE(comes_down_to(7));
  EXPECT_FALSE(bench_.writable(pool_, 70)) << "absent";
  stays_as_it_is();
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

// --- allocations of the engine itself ---------------------------------------------------

class MakingWayTest : public GivingTest {
 protected:
  using MakingWay = Releaser::MakingWay;
  std::uint64_t free_and(std::uint64_t granules) {
    return bench_.driver.gpu_free() + granules * kGranuleBytes;
  }
};

TEST_F(MakingWayTest, OnlyWhatIsLackingIsGiven) {
  begin();
  write({10, 30, 50}, 7);
  const std::uint64_t wanted = free_and(2);
  const MakingWay way(*bench_.releaser, wanted);
  ASSERT_TRUE(eventually([&] { return bench_.driver.gpu_free() >= wanted; }));
  stays_as_it_is();
  EXPECT_EQ(bench_.memory->physical().device, kGranuleBytes);
  EXPECT_TRUE(way.goes_on()) << "more could be had";
}

TEST_F(MakingWayTest, EndsWhenNothingIsLeft) {
  begin();
  write({10}, 7);
  const MakingWay way(*bench_.releaser, 16 * kGiB);
  ASSERT_TRUE(eventually([&] { return !way.goes_on(); }));
  EXPECT_EQ(bench_.memory->physical().device, 0u);
}

TEST_F(MakingWayTest, NothingIsLookedAtThatAReleaseHasTaken) {
  ReleaseSettings settings = patient();
  settings.seen_at_once = 2 * kGranuleBytes;
  begin(settings);
  for (std::int64_t g = 10; g < 90; g += 10) write({g}, 7);
  neighbours_.wanted.store(2 * kGranuleBytes);
  ASSERT_TRUE(comes_down_to(6));
  neighbours_.wanted.store(0);
  bench_.releaser->release_now();
  ASSERT_TRUE(comes_down_to(0));
  const std::uint64_t launches = bench_.driver.calls(Call::cuLaunchKernel);
  const MakingWay way(*bench_.releaser, 16 * kGiB);
  ASSERT_TRUE(eventually([&] { return !way.goes_on(); }));
  EXPECT_EQ(bench_.driver.calls(Call::cuLaunchKernel), launches);
}

// Who waits can tell slow giving from none.
TEST_F(MakingWayTest, IsUnderWayWhileContentsAreLookedAt) {
  begin();
  write({10, 30}, 7);
  const CUstream own = bench_.memory->kernels().stream();
  bench_.driver.hold(own, true);
  const MakingWay way(*bench_.releaser, free_and(1));
  EXPECT_TRUE(eventually([&] { return way.under_way(); }));
  bench_.driver.hold(own, false);
  ASSERT_TRUE(comes_down_to(1));
  EXPECT_TRUE(eventually([&] { return !way.under_way(); }));
}

TEST_F(MakingWayTest, TwoRequestsAreGivenTheirSum) {
  begin();
  write({10, 30, 50, 70}, 7);
  const std::uint64_t free = bench_.driver.gpu_free();
  const MakingWay one(*bench_.releaser, free + kGranuleBytes);
  const MakingWay two(*bench_.releaser, 2 * kGranuleBytes);
  EXPECT_EQ(two.needed_by_all(), free + 3 * kGranuleBytes);
  ASSERT_TRUE(eventually([&] { return bench_.driver.gpu_free() >= free + 3 * kGranuleBytes; }));
  stays_as_it_is();
  EXPECT_EQ(bench_.memory->physical().device, kGranuleBytes);
}

TEST_F(MakingWayTest, TheEndOfOneRequestIsNotTheOthers) {
  begin();
  write({10, 30, 50}, 7);
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(pool_, {50}, 8);  // nothing can be given yet
  const std::uint64_t wanted = free_and(1);
  const MakingWay stays(*bench_.releaser, wanted);
  { const MakingWay goes(*bench_.releaser, kGranuleBytes); }
  EXPECT_TRUE(stays.goes_on());
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(eventually([&] { return bench_.driver.gpu_free() >= wanted; }));
}

TEST_F(MakingWayTest, WhatIsTakenIsNotGivenForAgainButKeptForItsRequest) {
  begin();
  write({10, 30, 50}, 7);
  const std::uint64_t free = bench_.driver.gpu_free();
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(pool_, {50}, 8);  // nothing can be given before it is taken
  MakingWay takes(*bench_.releaser, free + kGranuleBytes);
  takes.takes();
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  const MakingWay other(*bench_.releaser, kGranuleBytes);
  EXPECT_EQ(other.needed_by_all(), free + 2 * kGranuleBytes);
  stays_as_it_is();
  EXPECT_EQ(bench_.memory->physical().device, 3 * kGranuleBytes);
}

TEST_F(MakingWayTest, ARequestAfterAVainOneIsTriedForItself) {
  begin();
  write({10}, 7);
  const MakingWay vain(*bench_.releaser, 16 * kGiB);
  ASSERT_TRUE(eventually([&] { return !vain.goes_on(); }));
  write({30}, 7);
  const MakingWay later(*bench_.releaser, kGranuleBytes);
  EXPECT_TRUE(comes_down_to(0)) << "the vain one's bytes are lacking as well";
}

// --- interruptions ----------------------------------------------------------------------

// A pool that is freed meanwhile interrupts without new work.
TEST_F(GivingTest, WhatAnInterruptionLeftBehindIsGivenNext) {
  begin();
  for (const std::int64_t slot : {10, 30, 50, 70}) write({slot}, 7);
  neighbours_.wanted.store(kGranuleBytes);
  ASSERT_TRUE(comes_down_to(3));  // the first of what was found; the rest is remembered
  const CUstream own = bench_.memory->kernels().stream();
  bench_.driver.hold(own, true);
  neighbours_.wanted.fetch_add(kGranuleBytes);
  bench_.releaser->look_now();
  ASSERT_TRUE(eventually([&] {
    return bench_.driver.api().cuStreamQuery(own) != CUDA_SUCCESS;
  }));  // stands at its copy
  std::thread freeing([&] { const Releaser::Pause pause(*bench_.releaser); });
  std::this_thread::sleep_for(50ms);
  bench_.driver.hold(own, false);
  freeing.join();
  ASSERT_TRUE(comes_down_to(2));
  std::vector<std::uint32_t> parked;
  for (const auto& extent : bench_.parked()) parked.push_back(extent.offset);
  EXPECT_THAT(parked, ::testing::UnorderedElementsAre(10u, 30u));
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
