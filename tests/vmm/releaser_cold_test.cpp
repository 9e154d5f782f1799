// Cold rows: what is not written for long goes while work goes on with pauses.
#include <gtest/gtest.h>

#include "tests/vmm/cold_bench.h"
#include "tests/vmm/fake_pressure.h"
#include "tests/vmm/random.h"

namespace kvshim::vmm::testing {
namespace {

class ColdTest : public ::testing::Test {
 protected:
  explicit ColdTest(std::uint64_t host_budget = kGiB) : bench_(plain(host_budget, &neighbours_)) {}
  // Row 0 is the oldest (kept), 15 and 20 are at fronts.
  bool cold_is_parked(ReleaseSettings settings = light()) {
    bench_.release_when_idle(settings);
    bench_.write_rows(0, 16, 1);
    return bench_.traffic_until([&] { return resident() == Rows{0, 15, 20}; });
  }
  Rows resident() const { return bench_.rows_in(ExtentState::kResident); }
  Rows parked() const { return bench_.rows_in(ExtentState::kParked); }
  std::uint64_t cold_bytes() const { return bench_.memory->parked_bytes().cold; }
  static constexpr std::uint64_t kRow = 3 * kGranuleBytes;

  FakePressure neighbours_;
  ColdBench bench_;
};

TEST_F(ColdTest, WhatIsNotWrittenForLongIsParkedWhileWorkGoesOn) {
  ASSERT_TRUE(cold_is_parked());
  // A row is no resident one as soon as its first layer has gone.
  EXPECT_TRUE(eventually([&] { return cold_bytes() == 14 * kRow; }));
  EXPECT_TRUE(eventually([&] { return bench_.statistics().cold_bytes.load() == 14 * kRow; }));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 3 * kRow; }));
  bench_.expect_contents();
}

TEST_F(ColdTest, WithoutTheOptionItStays) {
  ReleaseSettings settings = light();
  settings.cold_after = 0s;
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_for(800ms));
  EXPECT_EQ(resident().size(), 17u);
  EXPECT_EQ(bench_.statistics().asked_again.load(), 0u);
}

TEST_F(ColdTest, WhatIsWrittenAgainStays) {
  ReleaseSettings settings = light();
  settings.cold_after = 1s;
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 16, 1);
  const std::uint64_t faults = bench_.requests();
  const std::uint64_t made = bench_.statistics().granules_made_present.load();
  ASSERT_TRUE(bench_.traffic_until(
      [&] { return bench_.statistics().asked_again.load() >= 3 && parked().contains(4); }, 5));
  EXPECT_TRUE(resident().contains(5)) << "of every layer: the first asks, the others are told";
  EXPECT_EQ(bench_.requests(), faults) << "no faults: nothing was missing";
  EXPECT_EQ(bench_.statistics().granules_made_present.load(), made);
  bench_.expect_contents();
}

TEST_F(ColdTest, WhatIsZeroBecomesAbsent) {
  bench_.release_when_idle(light());
  bench_.write_rows(0, 16, 1);
  for (const PoolRecord* layer : bench_.layers) {
    std::memset(reinterpret_cast<void*>(bench_.address(layer, 7)), 0, kGranuleBytes);
  }
  bench_.rounds.erase(7);
  // Counted a moment after the last extent has gone.
  ASSERT_TRUE(bench_.traffic_until([&] {
    return resident() == Rows{0, 15, 20} && cold_bytes() == 13 * kRow;
  }));
  for (const PoolRecord* layer : bench_.layers) {
    EXPECT_FALSE(bench_.writable(layer, 7));
    EXPECT_TRUE(bench_.is_zero(layer, 7));
  }
  bench_.expect_contents();
}

TEST_F(ColdTest, NeitherTheFirstWorkNorQuietMomentsBringItBack) {
  ReleaseSettings settings = light();
  settings.idle_timeout = 1s;
  ASSERT_TRUE(cold_is_parked(settings));
  ASSERT_TRUE(bench_.traffic_for(1500ms));
  EXPECT_EQ(resident(), (Rows{0, 15, 20}));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; })) << "idle";
  bench_.write_rows(20, 21, 7);
  EXPECT_EQ(resident(), (Rows{0, 15, 20})) << "what was parked by idleness comes back";
  EXPECT_EQ(cold_bytes(), 14 * kRow);
  bench_.expect_contents();
}

TEST_F(ColdTest, AWriteBringsTheRowOfAllLayersBack) {
  ASSERT_TRUE(cold_is_parked());
  bench_.write_granules(bench_.layers[1], {2}, 702);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  EXPECT_TRUE(resident().contains(2));
  EXPECT_TRUE(bench_.holds(bench_.layers[1], 2, 702));
  EXPECT_TRUE(bench_.holds(bench_.layers[0], 2, 102));
  EXPECT_TRUE(bench_.holds(bench_.layers[2], 2, 102));
}

// Half a row may be parked when work comes in the middle.
TEST_F(ColdTest, ASiblingThatIsParkedComesBackWhenItIsWritten) {
  bench_.write_rows(0, 8, 1);
  std::vector<ExtentName> last_layer;
  for (ExtentName extent : bench_.resident()) {
    extent.cold = true;
    if (extent.address - bench_.layers[2]->base < 8 * kGranuleBytes) last_layer.push_back(extent);
  }
  ASSERT_EQ(bench_.park(last_layer), 8u);
  // As a clock would: nothing of row 3 may be known to be present.
  std::vector<AbiRun> runs;
  for (const PoolRecord* layer : bench_.layers) runs.push_back({bench_.granule(layer, 3), 1});
  ASSERT_EQ(bench_.memory->kernels().launch_clear(runs), CUDA_SUCCESS);
  ASSERT_TRUE(bench_.driver.drain(bench_.memory->kernels().stream()));
  bench_.write_rows(3, 4, 2);
  EXPECT_EQ(resident(), (Rows{3}));
  bench_.expect_contents();
}

TEST_F(ColdTest, WhatWasWrittenLongestAgoOfAllComesBackInQuietMoments) {
  ReleaseSettings settings = light();
  settings.idle_timeout = 1s;
  ASSERT_TRUE(cold_is_parked(settings));
  bench_.write_rows(0, 1, 2);  // now row 1 is the oldest
  ASSERT_TRUE(bench_.traffic_until([&] { return resident().contains(1); }));
  ASSERT_TRUE(bench_.traffic_for(700ms));
  EXPECT_TRUE(resident().contains(1)) << "and stays";
  EXPECT_FALSE(resident().contains(2));
  bench_.expect_contents();
}

TEST_F(ColdTest, NothingIsParkedWhileWorkIsUnfinished) {
  bench_.release_when_idle(light());
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(eventually([&] { return bench_.bits_clear(4); }));
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(bench_.layers[0], {20}, 7);
  std::this_thread::sleep_for(100ms);
  const Rows before = resident();
  std::this_thread::sleep_for(600ms);
  EXPECT_EQ(resident(), before);
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  ASSERT_TRUE(eventually([&] { return parked().contains(4); }));
  bench_.expect_contents();
}

TEST_F(ColdTest, PausedAndPinnedContentsStay) {
  bench_.memory->pin(bench_.layers[0]->base + 5 * kGranuleBytes, kGranuleBytes);
  bench_.memory->limits().paused.store(true);
  bench_.release_when_idle(light());
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_for(600ms));
  EXPECT_EQ(cold_bytes(), 0u);
  bench_.memory->limits().paused.store(false);
  ASSERT_TRUE(bench_.traffic_until([&] { return parked().contains(6); }));
  ASSERT_TRUE(bench_.traffic_for(400ms));
  EXPECT_TRUE(bench_.bit(bench_.granule(bench_.layers[0], 5)));
  EXPECT_EQ(bench_.driver.mapped(bench_.address(bench_.layers[0], 5)),
            FakeDriver::Mapped::kWritable);
  for (const ExtentName& extent : bench_.parked()) {
    EXPECT_FALSE(extent.pool == 1 && extent.offset == 5);
  }
}

// A request that goes on with pauses may read it: nobody's word covers that.
TEST_F(ColdTest, DroppingBeginsToCountWhenAllIsIdle) {
  ReleaseSettings settings = light();
  settings.idle_timeout = 1s;
  settings.disposable = true;
  settings.drop_after = 1500ms;
  ASSERT_TRUE(cold_is_parked(settings));
  ASSERT_TRUE(bench_.traffic_for(2s));
  EXPECT_EQ(bench_.statistics().dropped_bytes.load(), 0u);
  bench_.expect_contents();
  const auto last = std::chrono::steady_clock::now();
  ASSERT_TRUE(eventually([&] { return bench_.statistics().dropped_bytes.load() != 0; }));
  EXPECT_GE(std::chrono::steady_clock::now() - last, settings.drop_after);
}

class ColdWithoutHostMemory : public ColdTest {
 protected:
  ColdWithoutHostMemory() : ColdTest(4 * kGranuleBytes) {}
};

TEST_F(ColdWithoutHostMemory, TheRestStaysAndItIsSaid) {
  ReleaseSettings settings = light();
  settings.disposable = true;
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_until([&] { return cold_bytes() == 4 * kGranuleBytes; }));
  ASSERT_TRUE(bench_.traffic_for(500ms));
  EXPECT_EQ(bench_.statistics().dropped_bytes.load(), 0u);
  bench_.expect_contents();
  bool said = false;
  for (const Event& event : bench_.events()) {
    said = said || (event.level == EventLevel::kWarning &&
                    event.text.find("host budget") != std::string::npos);
  }
  EXPECT_TRUE(said);
}

TEST(ColdFrontTest, AskingAgainIsNoSequence) {
  ColdBench bench({.host_budget = kGiB});
  ReleaseSettings settings = light();
  settings.cold_after = 10s;
  bench.release_when_idle(settings);
  // A front stands at 4, where something is written already, and two newer ones elsewhere.
  for (const std::uint32_t row : {4u, 3u, 12u, 20u}) bench.write_rows(row, row + 1, 1);
  ASSERT_TRUE(eventually([&] { return bench.bits_clear(4); }));
  ASSERT_FALSE(bench.writable(bench.layers[0], 5));
  bench.write_rows(4, 5, 2);
  EXPECT_TRUE(eventually([&] { return bench.statistics().asked_again.load() == 1; }));
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(bench.writable(bench.layers[0], 5)) << "taken ahead";
}

// --- neighbours -------------------------------------------------------------------------

TEST_F(ColdTest, AProcessThatPausesGivesWhatItDidNotWriteLast) {
  ReleaseSettings settings = light();
  settings.cold_after = 0s;
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 8, 1);
  ASSERT_TRUE(bench_.traffic_for(300ms));
  neighbours_.wanted.store(kGiB);
  ASSERT_TRUE(bench_.traffic_until([&] { return resident() == Rows{7, 20}; }));
  ASSERT_TRUE(bench_.traffic_for(1s));
  EXPECT_EQ(resident(), (Rows{7, 20})) << "not the fronts";
  EXPECT_EQ(cold_bytes(), 7 * kRow) << "the next work doesn't bring it back";
  EXPECT_EQ(neighbours_.given.load(), 7 * kRow);
  bench_.expect_contents();
  // No more than a pause: idle pools give everything.
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  bench_.expect_contents();
}

TEST_F(ColdTest, WhatWasGivenInAPauseComesBackAfterIdleness) {
  ReleaseSettings settings = light();
  settings.cold_after = 0s;
  settings.idle_timeout = 1s;
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 8, 1);
  ASSERT_TRUE(bench_.traffic_for(300ms));
  neighbours_.wanted.store(kGiB);
  ASSERT_TRUE(bench_.traffic_until([&] { return !resident().contains(3); }));
  neighbours_.wanted.store(0);
  ASSERT_TRUE(eventually([&] {
    return bench_.memory->physical().device == 0 && bench_.releaser->settled() && cold_bytes() == 0;
  }));
  bench_.write_rows(20, 21, 7);
  EXPECT_TRUE(resident().contains(3));
  bench_.expect_contents();
}

TEST_F(ColdTest, AProcessThatPausesKeepsWhatItWroteLast) {
  ReleaseSettings settings = light();
  settings.cold_after = 0s;
  bench_.release_when_idle(settings);
  // Again when the machine was so busy that the pause became idleness.
  for (std::uint32_t attempt = 0; attempt < 8; ++attempt) {
    bench_.write_rows(attempt, attempt + 1, 1);
    ASSERT_TRUE(bench_.traffic_for(300ms));
    // 24 is no front: those are at 27 and 29.
    for (const std::uint32_t row : {24u, 26u, 28u}) bench_.write_rows(row, row + 1, attempt);
    const std::uint64_t held = bench_.memory->physical().device;
    neighbours_.first_spare.store(0);
    neighbours_.wanted.store(neighbours_.given.load() + kGiB);
    ASSERT_TRUE(eventually([&] { return neighbours_.first_spare.load() != 0; }));
    if (neighbours_.first_spare.load() <= held - 3 * kRow) return;
    neighbours_.wanted.store(0);
  }
  FAIL() << "it would have given a row that it had just written";
}

TEST_F(ColdTest, AProcessThatPausesGivesNoMoreThanAskedForAndTheOldestFirst) {
  ReleaseSettings settings = light();
  settings.cold_after = 0s;
  bench_.release_when_idle(settings);
  for (const std::uint32_t row : {2u, 6u, 10u, 14u}) bench_.write_rows(row, row + 1, 1);
  ASSERT_TRUE(bench_.traffic_for(300ms));
  neighbours_.wanted.store(kRow);
  ASSERT_TRUE(bench_.traffic_until([&] { return neighbours_.given.load() == kRow; }));
  EXPECT_EQ(parked(), Rows{2});
  ASSERT_TRUE(bench_.traffic_for(300ms));
  EXPECT_EQ(parked(), Rows{2});
}

// --- exactness ----------------------------------------------------------------------------

// Under FIFO reuse light traffic walks through the whole pool.
TEST(ColdWalkTest, AWalkThroughThePoolStaysSmall) {
  ColdBench bench({.host_budget = kGiB});
  ReleaseSettings settings = light();
  settings.cold_after = 100ms;
  bench.release_when_idle(settings);
  for (std::uint64_t walk = 1; walk <= 2; ++walk) {
    for (std::uint32_t row = 0; row + 1 < ColdBench::kPoolRows; row += 2) {
      bench.write_rows(row, row + 2, walk);
      std::this_thread::sleep_for(90ms);
      if (row % 8 == 0) bench.expect_contents();
    }
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_TRUE(
      bench.traffic_until([&] { return bench.rows_in(ExtentState::kResident).size() <= 8; }, 30));
  bench.expect_contents();
}

// Two writers and a reader with random pauses, beside cold rows, releases and restores.
TEST(ColdWalkTest, WorkAtAnyMomentLosesNothing) {
  ColdBench bench(plain());
  ReleaseSettings settings = light();
  settings.idle_timeout = 150ms;
  settings.cold_after = 30ms;
  settings.restore_time = 2ms;
  bench.release_when_idle(settings);
  std::atomic<bool> failed{false};
  const auto cold_seen = [&] {
    return bench.statistics().cold_bytes.load() != 0 && bench.statistics().asked_again.load() != 0;
  };
  const auto worker = [&](const PoolRecord* pool, unsigned seed) {
    const CUstream on = bench.new_stream();
    Random random(seed);
    std::map<std::uint32_t, std::uint64_t> written;
    for (std::uint64_t round = 1; !failed.load() && (round <= 30 || (round <= 300 && !cold_seen()));
         ++round) {
      const std::uint32_t row = random() % ColdBench::kPoolRows;
      bench.write_granules_on(on, pool, {row}, round * 1000 + row);
      written[row] = round * 1000 + row;
      // Readers have no guard: whatever is parked is read in place.
      std::vector<Range> touches;
      for (const auto& [at, value] : written) {
        touches.push_back({bench.address(pool, at), bench.address(pool, at) + kGranuleBytes});
      }
      bench.submit(on, {}, touches, [&bench, &failed, pool, written] {
        for (const auto& [at, value] : written) {
          if (!bench.holds(pool, at, value)) failed.store(true);
        }
      });
      if (random() % 16 == 0) bench.releaser->release_now();
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 160000));
    }
    EXPECT_TRUE(bench.driver.drain(on));
  };
  std::thread first(worker, bench.layers[0], 41), second(worker, bench.layers[1], 43);
  first.join();
  second.join();
  EXPECT_FALSE(failed.load());
  EXPECT_TRUE(cold_seen());
}

}  // namespace
}  // namespace kvshim::vmm::testing
