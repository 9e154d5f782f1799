// Coming back: before the first work, and in quiet moments; parking in blocks with
// the releasing thread, interrupted and refused at its steps.
#include <gtest/gtest.h>

#include "tests/vmm/random.h"
#include "tests/vmm/rows_bench.h"

namespace kvshim::vmm::testing {
namespace {

/// Sibling pools with contents in rows, and a releasing thread.
class LayersBench : public RowsBench {
 public:
  static constexpr std::uint32_t kRows = 24;
  explicit LayersBench(std::size_t count = 3)
      : RowsBench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead, .rows_ahead = false},
                  count) {}
  bool eventually_parked() {
    return eventually([&] { return memory->physical().device == 0; });
  }
  std::uint64_t parked_bytes() const {
    std::uint64_t sum = 0;
    for (const PoolRecord* layer : layers) sum += figures(layer).parked;
    return sum;
  }
  std::uint64_t quiet_bytes() const { return memory->statistics().quiet_bytes.load(); }
};

ReleaseSettings quick(std::chrono::milliseconds idle_timeout = 60ms) {
  ReleaseSettings settings;
  settings.idle_timeout = idle_timeout;
  settings.restore_time = 5s;
  return settings;
}

// --- parking in blocks ---------------------------------------------------------------

TEST(ParkingBlocksTest, AReleaseParksBlocksAndTheFirstWorkBringsThemBack) {
  LayersBench bench;
  bench.release_when_idle(quick());
  bench.write_rows(0, LayersBench::kRows, 1);
  ASSERT_TRUE(bench.eventually_parked());
  EXPECT_EQ(bench.extent_granules(bench.layers[2], 0), 16u);
  EXPECT_EQ(bench.extent_granules(bench.layers[2], LayersBench::kRows - 1), 1u);
  bench.expect_contents();
  bench.write_rows(5, 6, 2);
  EXPECT_EQ(bench.parked_bytes(), 0u);
  EXPECT_EQ(bench.extent_granules(bench.layers[2], 0), 16u);
  bench.expect_contents();
}

TEST(ParkingBlocksTest, WorkAtAnyMomentOfAReleaseLosesNothing) {
  LayersBench bench;
  ReleaseSettings settings = quick(20ms);
  settings.restore_time = 2ms;
  bench.release_when_idle(settings);
  Random random(31);
  for (std::uint64_t round = 1; round <= 40; ++round) {
    const std::uint32_t row = random() % LayersBench::kRows;
    bench.write_rows(row, std::min(row + 3, LayersBench::kRows), round);
    std::this_thread::sleep_for(std::chrono::microseconds(15000 + random() % 25000));
    bench.expect_contents();
    if (::testing::Test::HasFailure()) return;
  }
}

// Each call that a release makes fails in its turn: nothing is lost, and the release is
// taken up again.
TEST(ParkingBlocksTest, ARefusedCallOfAReleaseLosesNothing) {
  for (const Call call : {Call::cuMemCreate, Call::cuMemMap, Call::cuMemSetAccess, Call::cuMemUnmap,
                          Call::cuMemcpyDtoDAsync_v2, Call::cuLaunchKernel, Call::cuStreamQuery}) {
    for (const std::uint64_t nth : {1u, 2u, 5u}) {
      SCOPED_TRACE("call " + std::to_string(static_cast<unsigned>(call)) + ", nth " +
                   std::to_string(nth));
      LayersBench bench(2);
      bench.write_rows(0, 4, 1);
      const std::uint64_t before = bench.driver.calls(call);
      bench.driver.fail(call, nth, CUDA_ERROR_OUT_OF_MEMORY);
      bench.release_when_idle(quick(20ms));
      // (A query that fails is one of the engine's streams': not finished.)
      ASSERT_TRUE(eventually([&] { return bench.parked_bytes() != 0; }));
      bench.expect_contents();
      const bool came_to_it = bench.driver.calls(call) >= before + nth;
      bench.driver.fail_nothing();
      bench.write_rows(4, 5, 2);
      ASSERT_TRUE(bench.eventually_parked());
      bench.expect_contents();
      if (::testing::Test::HasFailure()) return;
      if (!came_to_it) break;
    }
  }
}

// --- before the first work ------------------------------------------------------------

TEST(RestoreTest, ARefusedCallLeavesContentsInPlace) {
  for (const Call call : {Call::cuMemCreate, Call::cuMemMap, Call::cuMemSetAccess, Call::cuMemUnmap,
                          Call::cuMemcpyDtoDAsync_v2}) {
    for (const std::uint64_t nth : {1u, 2u, 3u}) {
      SCOPED_TRACE("call " + std::to_string(static_cast<unsigned>(call)) + ", nth " +
                   std::to_string(nth));
      LayersBench bench(2);
      bench.release_when_idle(quick(20ms));
      bench.write_rows(0, 8, 1);
      ASSERT_TRUE(bench.eventually_parked());
      const std::uint64_t before = bench.driver.calls(call);
      bench.driver.fail(call, nth, CUDA_ERROR_OUT_OF_MEMORY);
      bench.releaser->restore_before_first_work();
      const bool came_to_it = bench.driver.calls(call) >= before + nth;
      bench.driver.fail_nothing();
      bench.expect_contents();
      bench.write_rows(2, 3, 2);
      bench.expect_contents();
      if (::testing::Test::HasFailure()) return;
      if (!came_to_it) break;
    }
  }
}

// Every fault and swap of a restore is behind the submitter, whose time is limited.
TEST(RestoreTest, ASlowCopyEndsIt) {
  LayersBench bench;
  ReleaseSettings settings = quick();
  settings.restore_time = 50ms;
  bench.release_when_idle(settings);
  bench.write_rows(0, LayersBench::kRows, 1);
  ASSERT_TRUE(bench.eventually_parked());
  const CUstream own = bench.memory->kernels().stream();
  bench.driver.hold(own, true);
  std::thread opener([&] {
    std::this_thread::sleep_for(300ms);
    bench.driver.hold(own, false);
  });
  bench.releaser->restore_before_first_work();
  opener.join();
  EXPECT_GT(bench.parked_bytes(), 0u) << "the first batch took all of its time";
  EXPECT_LE(bench.memory->physical().device, 48 * kMiB);
  bench.expect_contents();
}

// --- quiet moments ----------------------------------------------------------------------

class QuietTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ReleaseSettings settings;
    settings.idle_timeout = 300ms;
    settings.restore_time = 0ms;  // nothing comes back before the first work
    bench_.release_when_idle(settings);
    bench_.write_rows(0, LayersBench::kRows, 1);
    ASSERT_TRUE(bench_.eventually_parked());
    ASSERT_EQ(bench_.parked_bytes(), kAll);
  }
  // Work with pauses, for longer than idle_timeout.
  bool work_until(const std::function<bool()>& done) {
    return eventually([&] {
      bench_.write_rows(30, 31, 2);
      std::this_thread::sleep_for(100ms);
      return done();
    });
  }
  static constexpr std::uint64_t kAll = 3 * LayersBench::kRows * kGranuleBytes;
  LayersBench bench_;
};

TEST_F(QuietTest, WhatIsOnlyReadComesBackWhileWorkGoesOnWithPauses) {
  EXPECT_TRUE(work_until([&] { return bench_.parked_bytes() == 0; }));
  // On a busy machine a block may have come back beside work before its quiet moment came.
  EXPECT_GE(bench_.quiet_bytes(), kAll / 2);
  EXPECT_GE(bench_.memory->statistics().promoted_bytes.load(), kAll);
  bench_.expect_contents();
  ASSERT_TRUE(bench_.eventually_parked()) << "and goes again";
  bench_.expect_contents();
}

TEST_F(QuietTest, ALoneRequestBringsNothingBack) {
  for (std::uint64_t round = 2; round < 4; ++round) {
    bench_.write_granules(bench_.layers[0], {30}, round);
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
    ASSERT_TRUE(bench_.eventually_parked());
    EXPECT_EQ(bench_.quiet_bytes(), 0u);
  }
}

TEST_F(QuietTest, AFullGpuBringsNothingBack) {
  // Room for what is written, and for faults to come, no more.
  bench_.driver.take_gpu_memory(bench_.driver.gpu_free() - kFloor - 300 * kMiB);
  const auto end = std::chrono::steady_clock::now() + 1s;
  work_until([&] { return std::chrono::steady_clock::now() > end; });
  EXPECT_EQ(bench_.quiet_bytes(), 0u);
  EXPECT_EQ(bench_.parked_bytes(), kAll);
  bench_.expect_contents();
}

// Cold contents of hours must not fill the GPU for the sake of a little activity.
TEST_F(QuietTest, NoMoreOldContentsComeBackThanActivityHolds) {
  const PoolRecord* cold = bench_.pool(480 * kMiB, "cold");
  std::vector<std::int64_t> slots;
  for (std::int64_t i = 0; i < 220; ++i) slots.push_back(i);
  bench_.write_granules(cold, slots, 5);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  ASSERT_TRUE(bench_.eventually_parked());
  const std::uint64_t before = bench_.quiet_bytes();
  EXPECT_TRUE(work_until([&] { return bench_.quiet_bytes() - before >= 200 * kMiB; }));
  const auto end = std::chrono::steady_clock::now() + 500ms;
  work_until([&] { return std::chrono::steady_clock::now() > end; });
  EXPECT_LE(bench_.quiet_bytes() - before, 256 * kMiB);
  EXPECT_GT(bench_.figures(cold).parked, 180 * kMiB);
}

TEST_F(QuietTest, WorkAtAnyMomentLosesNothing) {
  Random random(37);
  for (std::uint64_t round = 2; round <= 40; ++round) {
    const std::uint32_t row = random() % LayersBench::kRows;
    bench_.write_rows(row, row + 1, round);
    std::this_thread::sleep_for(std::chrono::microseconds(15000 + random() % 35000));
    bench_.expect_contents();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
