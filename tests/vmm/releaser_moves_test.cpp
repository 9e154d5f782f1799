// Contents move beside steps that never pause.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "tests/vmm/moves_beside_work.h"
#include "tests/vmm/random.h"

namespace kvshim::vmm::testing {
namespace {

TEST_F(MovesBesideWork, WhatStepsReadComesBackWithoutAPause) {
  park_all();
  ASSERT_TRUE(step_until({3, 4, 11}, [&] { return are_resident({3, 4, 11}); }));
  EXPECT_GE(prefetched(), 3u * 3 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().quiet_bytes.load(), 0u) << "there was no quiet moment";
  step_until(
      {3, 4, 11}, [] { return false; }, 500ms);
  EXPECT_FALSE(are_resident({20})) << "in another block: nobody reads it";
  bench_.expect_contents();
}

// Marks that nobody has taken when work ends are of that time, not of the next work's.
TEST_F(MovesBesideWork, WhatWasReadBeforeThePauseStaysWhereItIs) {
  ReleaseSettings settings = soon_idle();
  settings.idle_timeout = 500ms;  // what was read before is not read lately
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(settings);
  for (int burst = 0; burst < 4; ++burst) {
    // It ends at another point between two askings each time.
    step_until(
        {20}, [] { return false; }, std::chrono::milliseconds(20 + 9 * burst));
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    ASSERT_TRUE(step_until({3}, [&] { return are_resident({3}); }));
    EXPECT_FALSE(are_resident({20})) << burst;
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  }
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, ItGoesAgainWhenWorkEnds) {
  park_all();
  ASSERT_TRUE(step_until({5}, [&] { return are_resident({5}); }));
  EXPECT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  ASSERT_TRUE(step_until({5}, [&] { return are_resident({5}); }));
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, WhereSpellsOfWorkAreShortNothingComesBeforeThisOneIsLonger) {
  ReleaseSettings settings = soon_idle();
  settings.short_spell = 1h;
  park_all(settings);
  step_until(
      {3, 4, 11}, [] { return false; }, 1s);
  EXPECT_EQ(prefetched(), 0u);
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, SwitchedOffNothingComes) {
  ReleaseSettings settings = soon_idle();
  settings.prefetch = false;
  park_all(settings);
  step_until(
      {3, 4, 11}, [] { return false; }, 1s);
  EXPECT_FALSE(are_resident({3}));
  EXPECT_EQ(prefetched(), 0u);
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, NothingComesWhileOthersNeedTheMemory) {
  park_all();
  neighbours_.there.store(true);
  neighbours_.wanted.store(1);
  step_until(
      {3, 4}, [] { return false; }, 1s);
  EXPECT_EQ(prefetched(), 0u);
  neighbours_.wanted.store(0);
  EXPECT_TRUE(step_until({3, 4}, [&] { return are_resident({3, 4}); }));
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, WhatLacksRoomToComeHomeAsksForIt) {
  park_all();
  neighbours_.there.store(true);
  bench_.driver.take_gpu_memory(bench_.driver.gpu_free() - kFloor - 100 * kMiB);
  ASSERT_TRUE(step_until({3, 4}, [&] { return neighbours_.asks.load() != 0; }));
  EXPECT_EQ(neighbours_.last_lack.load(), Lack::kRestore);
  EXPECT_EQ(prefetched(), 0u);
  bench_.expect_contents();
}

// --- away -----------------------------------------------------------------------------------

TEST_F(MovesBesideWork, WhatIsColdGoesWithoutAPause) {
  ReleaseSettings settings = idle_in_an_hour();
  settings.cold_after = 600ms;
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(settings);
  ASSERT_TRUE(step_until(
      {3, 4}, [&] { return resident().size() <= 4; }, 60s));
  EXPECT_TRUE(are_resident({3, 4, kBusyRow})) << "they are used";
  EXPECT_GE(sent_away(), 3u * 20 * kGranuleBytes);
  EXPECT_EQ(bench_.statistics().cold_bytes.load(), 0u) << "there was no pause";
  bench_.expect_contents();
  ASSERT_TRUE(step_until({3, 4, 12}, [&] {
    return are_resident({3, 4, 12});
  })) << "it comes back when it is read";
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, ANeighbourGetsWhatWorkDoesNotUse) {
  neighbours_.there.store(true);
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(idle_in_an_hour());
  step_until(
      {3, 4}, [] { return false; }, 300ms);
  EXPECT_EQ(sent_away(), 0u);
  ASSERT_NO_FATAL_FAILURE(lack_until_given(20 * kMiB));
  step_until(
      {3, 4}, [] { return false; }, 300ms);
  EXPECT_TRUE(are_resident({3, 4, kBusyRow}));
  EXPECT_LE(sent_away(), 100 * kMiB) << "not much more than was lacking";
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, ALimitIsReachedByProcessesThatNeverPause) {
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(idle_in_an_hour());
  const PhysicalBytes held = bench_.memory->physical();
  bench_.memory->limits().limit.store(held.device + held.zero - 30 * kMiB);
  EXPECT_TRUE(step_until(
      {3, 4}, [&] { return bench_.memory->over_limit() == 0; }, 30s));
  EXPECT_TRUE(are_resident({3, 4}));
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, NothingGoesWhereAReadIsNotSeen) {
  ReleaseSettings settings = idle_in_an_hour();
  settings.cold_after = 300ms;
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(settings);
  step_until(
      {3, 4},
      [&] {
        bench_.memory->read_marks().reads_unseen(bench_.memory->tick(), false);
        return false;
      },
      2s);
  EXPECT_EQ(sent_away(), 0u);
  bench_.expect_contents();
}

TEST_F(MovesBesideWork, ASmallNeedIsServedFromLargeExtents) {
  neighbours_.there.store(true);
  bench_.write_rows(0, kRows, 1);
  bench_.park_merged();
  bench_.bring_back(bench_.memory->blocks_to_return());
  ASSERT_GT(bench_.extent_granules(bench_.layers[0], 8) * kGranuleBytes, 10 * kMiB);
  bench_.release_when_idle(idle_in_an_hour());
  step_until(
      {20, 21}, [] { return false; }, 300ms);
  const std::uint64_t free = bench_.driver.gpu_free();
  neighbours_.lacking.store(free - bench_.memory->floor() + 10 * kMiB);
  EXPECT_TRUE(step_until(
      {20, 21}, [&] { return bench_.driver.gpu_free() >= free + 10 * kMiB; }, 30s));
  neighbours_.lacking.store(0);
  bench_.expect_contents();
}

/// More than is on its way at a time, parked by hand.
class MuchIsParked : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kRows = 24, kBusyRow = 30;
  MuchIsParked()
      : bench_({.host_budget = 6 * kGiB,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .follow_reads = true},
               8) {
    bench_.write_rows(0, kRows, 1);
    bench_.write_rows(kBusyRow, kBusyRow + 1, 1);
    bench_.release_when_idle(idle_in_an_hour());
    for (std::uint32_t row = 0; row < kRows; ++row) blocks_.push_back(static_cast<int>(row));
    table_ = ColdBench::table_of(bench_.layers[0], blocks_);
  }
  void release_by_hand() {
    bench_.releaser->release_now();
    ASSERT_TRUE(eventually([&] { return bench_.releaser->settled(); }));
  }
  /// Reads everything.
  void step() {
    bench_.submit(
        bench_.stream,
        [&] {
          if (!bench_.memory->reads_are_marked(bench_.layers[0]->id)) return;
          EXPECT_EQ(bench_.memory->kernels().launch_mark(bench_.stream, table_, 0), CUDA_SUCCESS);
        },
        {}, [] {});
    bench_.write_rows(kBusyRow, kBusyRow + 1, ++round_);
  }
  ColdBench bench_;
  std::vector<std::int32_t> blocks_;
  TableRead table_;
  std::uint64_t round_ = 1;
};

TEST_F(MuchIsParked, WhatIsReleasedByHandStaysReleasedWhateverWasOnItsWay) {
  for (int i = 0; i < 6; ++i) {
    SCOPED_TRACE(i);
    release_by_hand();
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    const auto end = std::chrono::steady_clock::now() + 130ms + i * 50ms;
    while (std::chrono::steady_clock::now() < end) step();
    release_by_hand();
    std::this_thread::sleep_for(100ms);  // nobody may begin anything in a pause
    EXPECT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }, 1s));
    EXPECT_EQ(bench_.memory->bytes_on_their_way(MoveTo::kGpu), 0u);
  }
  bench_.expect_contents();
}

// Steps write what others read, at any moment of its way.
class WritesInBetween : public MovesBesideWork {
 protected:
  void mixed(ReleaseSettings settings, unsigned reads_to_a_write, std::chrono::milliseconds spell) {
    Random random(11);
    park_all(settings);
    const auto begin = std::chrono::steady_clock::now();
    auto pause = begin + spell;
    for (auto now = begin; now < begin + 6s; now = std::chrono::steady_clock::now()) {
      // Now these rows, now those: the others get cold.
      const bool low = (now - begin) / 500ms % 2 == 0;
      const auto any_row = [&] { return low ? random() % 16 : 16 + random() % (kRows - 16); };
      std::vector<std::int32_t> blocks;
      for (int i = 0; i < 3; ++i) blocks.push_back(static_cast<std::int32_t>(any_row()));
      for (int i = 0; i < 5; ++i) step(blocks);
      if (random() % reads_to_a_write == 0) {
        const std::uint32_t row = random() % 4 == 0 ? random() % kRows : any_row();
        bench_.write_rows(row, row + 1, ++round_);
      }
      if (now > pause) {
        ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
        bench_.expect_contents();
        pause = std::chrono::steady_clock::now() + spell;
      }
    }
    std::printf("brought %llu MiB home, sent %llu MiB away\n",
                static_cast<unsigned long long>(prefetched() / kMiB),
                static_cast<unsigned long long>(sent_away() / kMiB));
    bench_.expect_contents();
  }
};

// Under a sanitizer the steps may be so far apart that pauses are used instead.
TEST_F(WritesInBetween, AreNotLostOnTheWayHome) {
  mixed(soon_idle(), 40, 600ms);
#ifndef KVSHIM_SANITIZED
  // On a machine that was too busy for it until now.
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  ASSERT_TRUE(step_until(
      {1}, [&] { return prefetched() != 0; }, 30s));
  bench_.expect_contents();
#endif
}

TEST_F(WritesInBetween, AreNotLostOnTheWayOut) {
  ReleaseSettings settings = soon_idle();
  settings.cold_after = 100ms;
  mixed(settings, 8, 2s);
#ifndef KVSHIM_SANITIZED
  ASSERT_TRUE(step_until(
      {1}, [&] { return sent_away() != 0; }, 30s));
  bench_.expect_contents();
#endif
}

// What nobody has used for a second is given. It was not used, and all reads are seen: it stays.
TEST_F(MovesBesideWork, WhatNobodyUsesDoesNotGoToAndFro) {
  neighbours_.there.store(true);
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(idle_in_an_hour());
  for (int i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(lack_until_given(20 * kMiB));
    step_until(
        {3, 4}, [] { return false; }, 1500ms);
  }
  EXPECT_GE(sent_away(), 40 * kMiB);
  EXPECT_EQ(prefetched(), 0u) << "nobody reads it";
  bench_.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
