// Steps that never pause, over what an idle release has parked.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/vmm/cold_bench.h"
#include "tests/vmm/fake_pressure.h"

namespace kvshim::vmm::testing {

class MovesBesideWork : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kRows = 24, kBusyRow = 30;
  MovesBesideWork()
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
  /// A neighbour lacks so much until steps that read rows 3 and 4 have given it.
  void lack_until_given(std::uint64_t bytes) {
    const std::uint64_t free = bench_.driver.gpu_free();
    neighbours_.lacking.store(free - bench_.memory->floor() + bytes);
    ASSERT_TRUE(step_until(
        {3, 4}, [&] { return bench_.driver.gpu_free() >= free + bytes; }, 30s));
    neighbours_.lacking.store(0);
  }
  void read(const std::vector<std::int32_t>& blocks) {
    // As an engine's: it lives as long as the steps.
    const auto& kept = *tables_.emplace_back(std::make_unique<std::vector<std::int32_t>>(blocks));
    const PoolRecord* const layer = bench_.layers[0];
    const TableRead table = ColdBench::table_of(layer, kept);
    std::vector<Range> touched;  // by the reader, as by all layers'
    std::vector<std::pair<std::uint32_t, std::uint64_t>> expected;
    for (const std::int32_t block : blocks) {
      const auto row = static_cast<std::uint32_t>(block);
      for (const PoolRecord* one : bench_.layers) {
        touched.push_back({bench_.address(one, row), bench_.address(one, row + 1)});
      }
      const auto written = bench_.rounds.find(row);
      if (written != bench_.rounds.end()) expected.emplace_back(row, written->second * 100 + row);
    }
    bench_.submit(
        bench_.stream,
        [&] {
          if (!bench_.memory->reads_are_marked(layer->id)) return;
          EXPECT_EQ(bench_.memory->kernels().launch_mark(bench_.stream, table, 0), CUDA_SUCCESS);
        },
        std::move(touched),
        [this, expected] {
          for (const auto& [row, value] : expected) {
            for (const PoolRecord* one : bench_.layers) {
              EXPECT_TRUE(bench_.holds(one, row, value)) << "row " << row;
            }
          }
        });
  }
  Rows resident() const { return bench_.rows_in(ExtentState::kResident); }
  bool are_resident(const Rows& rows) const {
    const Rows there = resident();
    return std::includes(there.begin(), there.end(), rows.begin(), rows.end());
  }
  std::uint64_t prefetched() const { return bench_.statistics().prefetched_bytes.load(); }
  std::uint64_t sent_away() const { return bench_.statistics().moved_away_bytes.load(); }

  FakePressure neighbours_;
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> tables_;
  ColdBench bench_;
  std::uint64_t round_ = 1;
};

}  // namespace kvshim::vmm::testing
