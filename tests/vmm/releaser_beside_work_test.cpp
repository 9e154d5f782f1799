// Coming back beside work that never pauses.
#include <gtest/gtest.h>

#include "tests/vmm/fake_pressure.h"
#include "tests/vmm/rows_bench.h"

namespace kvshim::vmm::testing {
namespace {

class BesideWork : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kRows = 24, kBusyRow = 30;
  static constexpr std::uint64_t kAll = 3 * kRows * kGranuleBytes;
  BesideWork()
      : bench_({.host_budget = kGiB,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .pressure = &neighbours_}) {
    bench_.write_rows(kBusyRow, kBusyRow + 1, 1);
  }
  std::uint64_t parked() const {
    std::uint64_t sum = 0;
    for (const PoolRecord* layer : bench_.layers) sum += bench_.figures(layer).parked;
    return sum;
  }
  /// All rows are given to a neighbour in need.
  void give_all(ReleaseSettings settings = idle_in_an_hour()) {
    bench_.write_rows(0, kRows, 1);
    bench_.release_when_idle(settings);
    neighbours_.wanted.store(2 * kAll);
    bench_.releaser->look_now();
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    ASSERT_GE(parked(), kAll);
    neighbours_.wanted.store(0);
  }
  /// Work that is never quiet for a tick.
  bool work_until(const std::function<bool()>& done,
                  std::chrono::milliseconds patience = kPatience) {
    std::uint64_t round = 2;
    const bool reached = eventually(
        [&] {
          bench_.write_rows(kBusyRow, kBusyRow + 1, ++round);
          return done();
        },
        patience);
    return reached;
  }

  /// Takes all memory above the floor but `room`; how much.
  std::uint64_t leave_room(std::uint64_t room) {
    const std::uint64_t rest = bench_.driver.gpu_free() - kFloor - room;
    bench_.driver.take_gpu_memory(rest);
    return rest;
  }
  void expect_stays() {
    work_until([] { return false; }, 1s);
    EXPECT_GE(parked(), kAll);
  }
  void expect_comes_home() {
    EXPECT_TRUE(work_until([&] { return parked() == 0; }));
    bench_.expect_contents();
  }

  FakePressure neighbours_;
  RowsBench bench_;
};

// Nobody writes these rows, and the process is never idle.
TEST_F(BesideWork, WhatWasGivenAwayInNeedComesHome) {
  give_all();
  EXPECT_TRUE(work_until([&] { return parked() == 0; }));
  EXPECT_EQ(bench_.memory->statistics().quiet_bytes.load(), 0u) << "there was no quiet moment";
  EXPECT_GE(bench_.memory->statistics().promoted_bytes.load(), kAll);
  bench_.expect_contents();
}

// Answered in place while the GPU was full, it has its bits set.
TEST_F(BesideWork, WhatWasWrittenInPlaceForWantOfRoomComesHome) {
  give_all();
  const std::uint64_t rest = leave_room(0);
  neighbours_.worth_waiting.store(false);
  bench_.write_rows(0, kRows, 2);
  EXPECT_GE(parked(), kAll);
  bench_.driver.give_gpu_memory(rest);
  expect_comes_home();
}

TEST_F(BesideWork, NothingComesHomeWithoutRoomOrWhileOthersNeedIt) {
  give_all();
  const std::uint64_t rest = leave_room(300 * kMiB);
  expect_stays();
  bench_.driver.give_gpu_memory(rest);
  neighbours_.wanted.store(1);  // there is somebody, and what was given covers it
  expect_stays();
  neighbours_.wanted.store(0);
  expect_comes_home();
}

// As when it is ordered behind another context's work, which waits for the program.
TEST_F(BesideWork, NothingWaitsForAnOwnStreamThatDoesNotGetOn) {
  give_all();
  const CUstream own = bench_.memory->kernels().stream();
  bench_.driver.hold(own, true);
  ASSERT_EQ(bench_.memory->kernels().launch_scan(0), CUDA_SUCCESS);
  expect_stays();
  std::atomic<bool> paused{false};
  std::thread frees([&] {
    const Releaser::Pause pause(*bench_.releaser);
    paused = true;
  });
  EXPECT_TRUE(eventually([&] { return paused.load(); }, 3s));
  bench_.driver.hold(own, false);
  frees.join();
  expect_comes_home();
}

// It would only go again.
TEST_F(BesideWork, WhatAnIdleReleaseHasParkedStaysThere) {
  ReleaseSettings settings = idle_in_an_hour();
  settings.idle_timeout = 100ms;
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(settings);
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  expect_stays();
  bench_.expect_contents();
}

// What it has parked until then is idle, as if it had come to its end.
TEST_F(BesideWork, WhatAnInterruptedReleaseHasParkedStaysThere) {
  ReleaseSettings settings = idle_in_an_hour();
  settings.idle_timeout = 100ms;
  settings.slice = 1us;  // a block in each
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(settings);
  ASSERT_TRUE(eventually([&] { return parked() != 0; }));
  work_until([] { return false; }, 1s);
  if (bench_.memory->physical().device == kGranuleBytes * bench_.layers.size()) {
    GTEST_SKIP() << "the release was too quick to be interrupted";
  }
  EXPECT_EQ(bench_.memory->statistics().prefetched_bytes.load(), 0u);
  bench_.expect_contents();
}

TEST_F(BesideWork, WithoutPrefetchNothingComesHome) {
  ReleaseSettings settings = idle_in_an_hour();
  settings.prefetch = false;
  give_all(settings);
  expect_stays();
  bench_.expect_contents();
}

TEST_F(BesideWork, WhatFoundNoRoomComesHomeWhenThereIsSome) {
  give_all();
  const std::uint64_t rest = leave_room(300 * kMiB);
  expect_stays();
  bench_.driver.give_gpu_memory(rest);
  expect_comes_home();
}

TEST_F(BesideWork, ASecondGiftComesHomeToo) {
  give_all();
  EXPECT_TRUE(work_until([&] { return parked() == 0; }));
  const std::uint64_t rest = leave_room(0);
  neighbours_.worth_waiting.store(false);
  bench_.write_rows(kRows, kRows + 3, 2);
  EXPECT_GE(parked(), 3 * kGranuleBytes) << "made in host memory";
  work_until([] { return false; }, 300ms);
  bench_.driver.give_gpu_memory(rest);
  expect_comes_home();
}

// As idle as what a timeout has parked.
TEST_F(BesideWork, WhatWasReleasedByHandStaysThere) {
  bench_.write_rows(0, kRows, 1);
  bench_.release_when_idle(idle_in_an_hour());
  bench_.releaser->release_now();
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  expect_stays();
  bench_.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
