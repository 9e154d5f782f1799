// Copies that go when they are let go.
#include "vmm/copy_steps.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/vmm/layers_bench.h"
#include "tests/vmm/releaser_fixture.h"

namespace kvshim::vmm::testing {
namespace {

class CopyStepsTest : public ::testing::Test {
 protected:
  CopyStepsTest() : pool_(bench_.pool(32 * kMiB)) {
    bench_.fault(pool_, 0, 8);
    for (std::uint32_t g = 0; g < 4; ++g) bench_.write(pool_, g, 100 + g);
  }
  CopySteps& steps() { return bench_.memory->kernels().copy_steps(); }
  /// Granule 0 to 4, 1 to 5 and so on.
  std::vector<AbiCopy> copies(std::uint32_t count) const {
    std::vector<AbiCopy> all;
    for (std::uint32_t g = 0; g < count; ++g) {
      all.push_back({bench_.address(pool_, g), bench_.address(pool_, 4 + g), kGranuleBytes});
    }
    return all;
  }
  std::uint32_t arrived() const {
    std::uint32_t count = 0;
    while (count < 4 && bench_.holds(pool_, 4 + count, 100 + count)) ++count;
    return count;
  }
  /// That many, and no more.
  void expect_arrived(std::uint32_t count) {
    EXPECT_TRUE(eventually([&] { return arrived() >= count; }));
    std::this_thread::sleep_for(50ms);
    EXPECT_EQ(arrived(), count);
  }
  bool stream_ends() { return bench_.driver.drain(bench_.memory->kernels().stream()); }

  EngineBench bench_{{.read_ahead_max = kNoReadAhead, .rows_ahead = false}};
  const PoolRecord* const pool_;
};

TEST_F(CopyStepsTest, TheFirstGoesAtOnceAndEachOtherWhenItIsLetGo) {
  ASSERT_TRUE(steps().submit(copies(4)));
  expect_arrived(1);
  steps().let_next_go();
  expect_arrived(2);
  steps().let_all_go();
  expect_arrived(4);
  EXPECT_TRUE(stream_ends());
}

TEST_F(CopyStepsTest, WhatIsLetGoTooOftenDoesNotOpenTheWayForLaterOnes) {
  for (int i = 0; i < 3; ++i) steps().let_next_go();
  steps().let_all_go();
  ASSERT_TRUE(steps().submit(copies(2)));
  expect_arrived(1);
  for (int i = 0; i < 3; ++i) steps().let_next_go();
  expect_arrived(2);
  ASSERT_TRUE(stream_ends());
  bench_.write(pool_, 5, 0);
  ASSERT_TRUE(steps().submit(copies(2)));
  expect_arrived(1);
  steps().let_all_go();
  EXPECT_TRUE(stream_ends());
}

TEST_F(CopyStepsTest, WithoutWaitsInStreamsAllGoAtOnceAndNoMoreWaitsAreTried) {
  bench_.driver.fail(Call::cuStreamWaitValue32_v2, 1, CUDA_ERROR_NOT_SUPPORTED);
  const std::uint64_t before = bench_.driver.calls(Call::cuStreamWaitValue32_v2);
  ASSERT_TRUE(steps().submit(copies(4)));
  EXPECT_TRUE(stream_ends());
  EXPECT_EQ(arrived(), 4u);
  ASSERT_TRUE(steps().submit(copies(4)));
  EXPECT_TRUE(stream_ends());
  EXPECT_EQ(bench_.driver.calls(Call::cuStreamWaitValue32_v2), before + 1);
}

TEST_F(CopyStepsTest, WhatCameBeforeARefusedCopyStillEnds) {
  bench_.driver.fail(Call::cuMemcpyDtoDAsync_v2, 3, CUDA_ERROR_UNKNOWN);
  EXPECT_FALSE(steps().submit(copies(4)));
  expect_arrived(1);
  steps().let_all_go();
  EXPECT_TRUE(stream_ends()) << "the wait of the copy that was refused, too";
  EXPECT_EQ(arrived(), 2u);
}

// A thread that is to let them go, and waits for one that waits for the whole context.
TEST_F(CopyStepsTest, ForgottenOnesAreLetGoByTheWatchdog) {
  steps().let_go_what_was_forgotten();
  ASSERT_TRUE(steps().submit(copies(4)));
  steps().let_go_what_was_forgotten();
  expect_arrived(1);  // they are new
  steps().let_go_what_was_forgotten();
  expect_arrived(4);
  EXPECT_TRUE(stream_ends());

  GuardWatchdog watchdog(*bench_.memory, 10'000);
  watchdog.start();
  for (std::uint32_t g = 4; g < 8; ++g) bench_.write(pool_, g, 0);
  ASSERT_TRUE(steps().submit(copies(4)));
  EXPECT_TRUE(stream_ends());
  EXPECT_EQ(arrived(), 4u);
  watchdog.stop();
}

// --- in a release ---------------------------------------------------------------------

TEST(StepsOfARelease, EachOpeningOfASwapLetsOneCopyGo) {
  LayersBench bench(24, 64);  // 32 MiB are parked as four times 8
  bench.park_merged();
  bench.bring_back(bench.memory->blocks_to_return());
  std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
  std::erase_if(blocks, [](const ExtentName& block) { return block.order != 4; });
  ASSERT_GE(blocks.size(), 2u);
  PreparedPark first, next;
  ASSERT_EQ(bench.memory->prepare_park(blocks[0], &first), Preparation::kDone);
  ASSERT_EQ(bench.memory->prepare_park(blocks[1], &next), Preparation::kDone);
  ASSERT_EQ(first.parts.size(), 4u);
  ASSERT_EQ(next.parts.size(), 4u);
  bench.copy(first);
  const CUstream stream = bench.memory->kernels().stream();
  const auto ended = [&] { return bench.driver.api().cuStreamQuery(stream) == CUDA_SUCCESS; };
  ASSERT_TRUE(bench.memory->kernels().copy_steps().submit(next.copies()));
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(ended());
  ASSERT_TRUE(bench.memory->swap_to_parked(first, 1));
  EXPECT_TRUE(eventually(ended)) << "three openings behind the first one, for three copies";
  ASSERT_TRUE(bench.memory->swap_to_parked(next, 1));
  bench.memory->release_retired();
  bench.expect_contents();
  EXPECT_EQ(bench.memory->broken_invariant(), "");
}

// Seven pools: 32 MiB are parked as two times 16.
class StepsOfTheReleaser : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kGranules = 64;
  StepsOfTheReleaser() {
    for (int i = 0; i < 7; ++i) layers_.push_back(bench_.pool(2 * kGranules * kGranuleBytes));
    for (const PoolRecord* layer : layers_) {
      const AbiRun all{bench_.granule(layer, 0), kGranules};
      bench_.memory->fault(std::span(&all, 1), false);
      for (std::uint32_t g = 0; g < kGranules; ++g) bench_.write(layer, g, value(layer, g));
    }
  }
  static std::uint64_t value(const PoolRecord* layer, std::uint32_t g) {
    return layer->id * 1000 + g;
  }
  void expect_all_parked() {
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    for (const PoolRecord* layer : layers_) {
      EXPECT_EQ(bench_.extent_granules(layer, 0), 8u);
      for (std::uint32_t g = 0; g < kGranules; ++g) {
        ASSERT_TRUE(bench_.holds(layer, g, value(layer, g))) << layer->id << ' ' << g;
      }
    }
    EXPECT_EQ(bench_.memory->broken_invariant(), "");
  }

  EngineBench bench_{
      {.host_budget = 2 * kGiB, .read_ahead_max = kNoReadAhead, .rows_ahead = false}};
  std::vector<const PoolRecord*> layers_;
};

TEST_F(StepsOfTheReleaser, BlocksOfSeveralPartsAreCopiedInSteps) {
  ASSERT_EQ(bench_.extent_granules(layers_[0], 0), 16u);
  bench_.release_when_idle(quick());
  expect_all_parked();
  EXPECT_GE(bench_.driver.calls(Call::cuStreamWaitValue32_v2), 14u);
}

TEST_F(StepsOfTheReleaser, ARefusedWaitOrCopyCostsNoContentsAndHoldsNobodyUp) {
  for (const Call call : {Call::cuStreamWaitValue32_v2, Call::cuMemcpyDtoDAsync_v2}) {
    bench_.driver.fail(call, 3, CUDA_ERROR_UNKNOWN);
  }
  bench_.release_when_idle(quick());
  expect_all_parked();
}

}  // namespace
}  // namespace kvshim::vmm::testing
