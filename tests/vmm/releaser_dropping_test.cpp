// What becomes of contents for which there is no host memory, or that are disposable.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/vmm/releaser_fixture.h"

namespace kvshim::vmm::testing {
namespace {

class DroppingTest : public ReleaserTest {};

class SmallBudgetTest : public ReleaserTest {
 protected:
  SmallBudgetTest()
      : ReleaserTest(
            {.host_budget = 4 * kMiB, .read_ahead_max = kNoReadAhead, .rows_ahead = false}) {}
};

TEST_F(SmallBudgetTest, PreserveKeepsContentsOnTheGpuWhenTheBudgetIsFull) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(2));
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(bench_.figures(pool_).resident, 2 * kGranuleBytes);
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
  int warnings = 0;
  for (const Event& event : bench_.events()) warnings += event.level == EventLevel::kWarning;
  EXPECT_EQ(warnings, 1) << "said once, with the reason";
}

TEST_F(SmallBudgetTest, DisposableDropsTheOldestForWhatIsNewer) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  settings.restore_time = 0ms;
  bench_.release_when_idle(settings);
  write({1, 2}, 7);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_TRUE(bench_.holds(pool_, 1, 7));
  write({30}, 8);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_TRUE(bench_.holds(pool_, 30, 8));
  EXPECT_TRUE(bench_.is_zero(pool_, 1) != bench_.is_zero(pool_, 2)) << "one of the old had to go";
}

// The budget has room: nothing is to be dropped, and the log says what it was.
TEST_F(DroppingTest, WhatTheDriverMapsNoHostMemoryForStaysAsItIs) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  write(four_, 7);
  bench_.driver.fail(Call::cuMemMap, 1, CUDA_ERROR_OUT_OF_MEMORY, 100'000);
  bench_.release_when_idle(settings);
  const auto refused = [&] {
    for (const Event& event : bench_.events()) {
      if (event.text.find("the driver refused to map host memory") != std::string::npos)
        return true;
    }
    return false;
  };
  ASSERT_TRUE(eventually(refused));
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(bench_.figures(pool_).resident, 4 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().dropped_bytes.load(), 0u);
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
  bench_.driver.fail_nothing();
  write({1}, 8);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_TRUE(bench_.holds(pool_, 1, 8));
  EXPECT_TRUE(bench_.holds(pool_, 4, 7));
}

TEST_F(DroppingTest, DisposableContentsAreDroppedOnlyWhenTheyAreOldEnough) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  settings.restore_time = 0ms;
  settings.drop_after = 700ms;
  bench_.release_when_idle(settings);
  write({1}, 7);
  ASSERT_TRUE(eventually_resident(0));
  const auto parked_first = std::chrono::steady_clock::now();
  std::this_thread::sleep_for(400ms);
  write({30}, 8);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.is_zero(pool_, 1); }));
  EXPECT_GE(std::chrono::steady_clock::now() - parked_first, 500ms);
  EXPECT_TRUE(bench_.holds(pool_, 30, 8)) << "parked later, dropped later";
  EXPECT_TRUE(eventually([&] { return bench_.is_zero(pool_, 30); }));
  EXPECT_TRUE(eventually([&] { return bench_.memory->host_in_use() == 0; }));
}

// The end of a pool's last page may belong to another tensor, which is not idle cache.
TEST_F(DroppingTest, DisposableKeepsTheLastGranuleOfAPool) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  settings.restore_time = 0ms;
  settings.drop_after = 100ms;
  bench_.release_when_idle(settings);
  const auto last = static_cast<std::uint32_t>(pool_->mapped_bytes / kGranuleBytes) - 1;
  write({1, last}, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.is_zero(pool_, 1); }));
  std::this_thread::sleep_for(300ms);
  EXPECT_TRUE(bench_.holds(pool_, last, 7));
}

TEST_F(SmallBudgetTest, DisposableKeepsTheLastGranuleOfAPoolWithoutHostMemoryToo) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  settings.restore_time = 0ms;
  bench_.release_when_idle(settings);
  const auto last = static_cast<std::uint32_t>(pool_->mapped_bytes / kGranuleBytes) - 1;
  write({last}, 7);
  write({1, 2, 3, 4}, 8);
  ASSERT_TRUE(eventually([&] { return bench_.figures(pool_).resident <= kGranuleBytes; }));
  std::this_thread::sleep_for(300ms);
  EXPECT_TRUE(bench_.holds(pool_, last, 7));
}

// What was made in host memory for want of GPU memory is not old because of that.
TEST_F(DroppingTest, PagesMadeInHostMemoryAreAsYoungAsTheirLastWrite) {
  ReleaseSettings settings = quick();
  settings.disposable = true;
  settings.drop_after = 500ms;
  bench_.release_when_idle(settings);
  std::this_thread::sleep_for(700ms);  // the process is older than drop_after
  bench_.driver.take_gpu_memory(bench_.driver.gpu_free() - kFloor);
  write({1}, 7);
  ASSERT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
  std::this_thread::sleep_for(250ms);  // idle, released
  EXPECT_TRUE(bench_.holds(pool_, 1, 7));
  EXPECT_TRUE(eventually([&] { return bench_.is_zero(pool_, 1); }));
}

TEST_F(DroppingTest, PagesMadeInHostMemoryMoveToTheGpuWhenThereIsRoom) {
  bench_.release_when_idle(quick());
  const std::uint64_t taken = bench_.driver.gpu_free() - kFloor;
  bench_.driver.take_gpu_memory(taken);
  write({1}, 7);
  ASSERT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
  bench_.driver.give_gpu_memory(taken);
  std::this_thread::sleep_for(300ms);  // idle
  write(one_, 8);
  EXPECT_EQ(bench_.figures(pool_).resident, 2 * kGranuleBytes);
  EXPECT_TRUE(bench_.holds(pool_, 1, 7));
}

TEST_F(DroppingTest, PreserveNeverDrops) {
  ReleaseSettings settings = quick();
  settings.drop_after = 50ms;
  bench_.release_when_idle(settings);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  std::this_thread::sleep_for(400ms);
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

}  // namespace
}  // namespace kvshim::vmm::testing
