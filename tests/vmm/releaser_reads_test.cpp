// Cold rows where readers say what they read.
#include <gtest/gtest.h>

#include "tests/vmm/cold_bench.h"

namespace kvshim::vmm::testing {
namespace {

DeviceSettings followed() {
  DeviceSettings settings = plain();
  settings.follow_reads = true;
  return settings;
}

// Longer than the longest pause: what each step reads is always young.
ReleaseSettings slowly() {
  ReleaseSettings settings = light();
  settings.cold_after = ColdBench::kLongestPause + 800ms;
  return settings;
}

class ReadsTest : public ::testing::Test {
 protected:
  /// A step's readers, a layer after the other: block b is granule b of the pool. In a
  /// graph the marks are there at each step.
  void read(const std::vector<std::int32_t>& blocks, bool in_graph = false) {
    // As an engine's: it lives as long as the steps.
    const auto& kept = *tables_.emplace_back(std::make_unique<std::vector<std::int32_t>>(blocks));
    ReadMarks& marks = bench_.memory->read_marks();
    for (const PoolRecord* layer : bench_.layers) {
      const TableRead table = ColdBench::table_of(layer, kept);
      bench_.submit(
          bench_.stream,
          [&] {
            const std::uint32_t asked = in_graph ? 0 : marks.asked();
            if ((!in_graph && asked == 0) || !bench_.memory->reads_are_marked(layer->id)) return;
            ++marks_;
            EXPECT_EQ(bench_.memory->kernels().launch_mark(bench_.stream, table, asked),
                      CUDA_SUCCESS);
          },
          {}, [] {});
    }
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  Rows resident() const { return bench_.rows_in(ExtentState::kResident); }
  std::uint64_t cold_bytes() const { return bench_.memory->parked_bytes().cold; }

  std::vector<std::unique_ptr<std::vector<std::int32_t>>> tables_;
  ColdBench bench_{followed()};
  CUstream other_ = bench_.new_stream();
  unsigned marks_ = 0;
};

// Rows 15 and 20 are at fronts. Row 0, the oldest, goes: nothing needs to be kept for reads
// that nobody sees.
TEST_F(ReadsTest, WhatIsReadStaysWhileTheRestGoes) {
  for (const bool in_graph : {false, true}) {
    SCOPED_TRACE(in_graph ? "in a graph" : "in a stream");
    ColdBench& bench = bench_;
    bench.reads = [&] { read({4, 5, 20}, in_graph); };
    if (bench.releaser == nullptr) bench.release_when_idle(slowly());
    bench.write_rows(0, 16, in_graph ? 2 : 1);
    ASSERT_TRUE(bench.traffic_until([&] { return resident() == Rows{4, 5, 15, 20}; }));
    ASSERT_TRUE(bench.traffic_for(1500ms));
    EXPECT_EQ(resident(), (Rows{4, 5, 15, 20}));
    EXPECT_EQ(bench.statistics().marked_by_readers.load(), 3u * 3 * kGranuleBytes);
    EXPECT_NE(bench.memory->read_marks().answers(), 0u);
    bench.expect_contents();
  }
}

TEST_F(ReadsTest, WhatIsReadNoMoreGoes) {
  bench_.reads = [&] { read({4, 20}); };
  bench_.release_when_idle(slowly());
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_until([&] { return resident() == Rows{4, 15, 20}; }));
  bench_.reads = [&] { read({20}); };
  ASSERT_TRUE(bench_.traffic_until([&] { return resident() == Rows{15, 20}; }));
  bench_.expect_contents();
}

TEST_F(ReadsTest, WhatWasColdComesBackInQuietMomentsWhenItIsRead) {
  ReleaseSettings settings = slowly();
  settings.idle_timeout = 1s;
  bench_.reads = [&] { read({20}); };
  bench_.release_when_idle(settings);
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_until([&] { return resident() == Rows{15, 20}; }));
  bench_.reads = [&] { read({7, 20}); };
  // With what it was parked together with.
  ASSERT_TRUE(bench_.traffic_until([&] { return resident().contains(7); }));
  ASSERT_TRUE(bench_.traffic_for(700ms));
  EXPECT_TRUE(resident().contains(7)) << "and stays";
  EXPECT_FALSE(resident().contains(9));
  bench_.expect_contents();
}

TEST_F(ReadsTest, WhereAReadIsNotSeenTheOldestStays) {
  bench_.reads = [&] {
    read({20});
    bench_.memory->read_marks().reads_unseen(bench_.memory->tick(), false);
  };
  bench_.release_when_idle(slowly());
  bench_.write_rows(0, 16, 1);
  ASSERT_TRUE(bench_.traffic_until([&] { return resident() == Rows{0, 15, 20}; }));
  ASSERT_TRUE(bench_.traffic_for(1500ms));
  EXPECT_EQ(resident(), (Rows{0, 15, 20}));
}

// While work goes on without a pause.
TEST_F(ReadsTest, OneLayerIsMarkedNowAndThen) {
  ReleaseSettings settings = light();
  settings.cold_after = 1h;
  bench_.driver.hold(other_, true);
  bench_.submit(other_, {}, {}, [] {});  // never finished
  bench_.memory->read_marks().pause_begins(0);
  bench_.release_when_idle(settings);
  unsigned steps = 0;
  ASSERT_TRUE(eventually([&] {
    read({3});
    ++steps;
    return bench_.memory->read_marks().answers() != 0 && bench_.memory->read_marks().asked() == 0;
  }));
  EXPECT_LE(marks_, steps);
  const unsigned before = marks_;
  for (int step = 0; step < 100; ++step) read({3});
  EXPECT_EQ(marks_, before);
  bench_.driver.hold(other_, false);
}

}  // namespace
}  // namespace kvshim::vmm::testing
