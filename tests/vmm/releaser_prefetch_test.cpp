// Prefetch beside steps that never pause.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/vmm/cold_bench.h"
#include "tests/vmm/fake_pressure.h"
#include "tests/vmm/random.h"

namespace kvshim::vmm::testing {
namespace {

ReleaseSettings soon_idle() {
  ReleaseSettings settings;
  settings.idle_timeout = 150ms;
  settings.restore_time = 0ms;  // nothing comes back before the first work
  settings.prefetch = true;
  return settings;
}

class PrefetchBesideWork : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kRows = 24, kBusyRow = 30;
  PrefetchBesideWork()
      : bench_({.host_budget = kGiB,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .follow_reads = true,
                .pressure = &neighbours_}) {
    neighbours_.there.store(false);
  }
  /// All is parked by an idle release.
  void park_all(ReleaseSettings settings = soon_idle()) {
    bench_.write_rows(0, kRows, 1);
    bench_.write_rows(kBusyRow, kBusyRow + 1, 1);
    bench_.release_when_idle(settings);
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  }
  /// Reads blocks (block b is granule b of each pool), then writes the busy row: a step.
  void step(const std::vector<std::int32_t>& blocks) {
    read(blocks);
    bench_.write_rows(kBusyRow, kBusyRow + 1, ++round_);
  }
  bool step_until(const std::vector<std::int32_t>& blocks, const std::function<bool()>& done,
                  std::chrono::milliseconds patience = kPatience) {
    return eventually(
        [&] {
          step(blocks);
          return done();
        },
        patience);
  }
  void read(const std::vector<std::int32_t>& blocks) {
    // As an engine's: it lives as long as the steps.
    const auto& kept = *tables_.emplace_back(std::make_unique<std::vector<std::int32_t>>(blocks));
    const PoolRecord* const layer = bench_.layers[0];
    TableRead table{};
    table.ids = reinterpret_cast<std::uint64_t>(kept.data());
    table.rows = table.block = table.parts = 1;
    table.entries = static_cast<std::uint32_t>(kept.size());
    table.part[0] = {layer->base, kGranuleBytes, kGranuleBytes, layer->base,
                     layer->base + layer->mapped_bytes};
    bench_.submit(
        bench_.stream,
        [&] {
          if (!bench_.memory->reads_are_marked(layer->id)) return;
          EXPECT_EQ(bench_.memory->kernels().launch_mark(bench_.stream, table, 0), CUDA_SUCCESS);
        },
        {}, [] {});
  }
  Rows resident() const { return bench_.rows_in(ExtentState::kResident); }
  bool are_resident(const Rows& rows) const {
    const Rows there = resident();
    return std::includes(there.begin(), there.end(), rows.begin(), rows.end());
  }
  std::uint64_t prefetched() const { return bench_.memory->statistics().prefetched_bytes.load(); }

  FakePressure neighbours_;
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> tables_;
  ColdBench bench_;
  std::uint64_t round_ = 1;
};

TEST_F(PrefetchBesideWork, WhatStepsReadComesBackWithoutAPause) {
  park_all();
  ASSERT_TRUE(step_until({3, 4, 11}, [&] { return are_resident({3, 4, 11}); }));
  EXPECT_GE(prefetched(), 3u * 3 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().quiet_bytes.load(), 0u) << "there was no quiet moment";
  step_until(
      {3, 4, 11}, [] { return false; }, 500ms);
  EXPECT_FALSE(are_resident({20})) << "in another block: nobody reads it";
  bench_.expect_contents();
}

TEST_F(PrefetchBesideWork, ItGoesAgainWhenWorkEnds) {
  park_all();
  ASSERT_TRUE(step_until({5}, [&] { return are_resident({5}); }));
  EXPECT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  ASSERT_TRUE(step_until({5}, [&] { return are_resident({5}); }));
  bench_.expect_contents();
}

TEST_F(PrefetchBesideWork, SwitchedOffNothingComes) {
  ReleaseSettings settings = soon_idle();
  settings.prefetch = false;
  park_all(settings);
  step_until(
      {3, 4, 11}, [] { return false; }, 1s);
  EXPECT_FALSE(are_resident({3}));
  EXPECT_EQ(prefetched(), 0u);
  bench_.expect_contents();
}

TEST_F(PrefetchBesideWork, NothingComesWhileOthersNeedTheMemory) {
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

// Steps write what others read, at any moment of its way home.
TEST_F(PrefetchBesideWork, WritesInBetweenAreNotLost) {
  Random random(11);
  park_all();
  const auto end = std::chrono::steady_clock::now() + 4s;
  for (unsigned round = 2; std::chrono::steady_clock::now() < end; ++round) {
    std::vector<std::int32_t> blocks;
    for (int i = 0; i < 6; ++i) blocks.push_back(static_cast<std::int32_t>(random() % kRows));
    step(blocks);
    if (random() % 3 == 0) {
      const std::uint32_t row = random() % kRows;
      bench_.write_rows(row, row + 1, ++round_);
    }
    if (random() % 200 == 0) {
      ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
      bench_.expect_contents();
    }
  }
  EXPECT_NE(prefetched(), 0u);
  bench_.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
