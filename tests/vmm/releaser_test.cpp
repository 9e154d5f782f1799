// Fault server, releasing thread and submitters together.
#include <gtest/gtest.h>

#include "tests/vmm/random.h"
#include "tests/vmm/releaser_fixture.h"

namespace kvshim::vmm::testing {
namespace {

TEST_F(ReleaserTest, IdleContentsGoToHostMemoryAndStay) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  EXPECT_EQ(bench_.figures(pool_).resident, 4 * kGranuleBytes);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
}

// A second mapping of what is parked costs GPU memory for page tables.
TEST_F(ReleaserTest, IdleContentsAreMappedOnce) {
  bench_.release_when_idle(quick());
  for (std::uint64_t value = 7; value < 10; ++value) {
    write(four_, value);
    ASSERT_TRUE(eventually_resident(0));
    ASSERT_TRUE(eventually([&] { return bench_.driver.host_mapped_bytes() == 4 * kGranuleBytes; }));
    for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, value));
  }
}

// A kernel waits for its turn on a GPU that others use: one behind each copy made parking
// three times as long (docs/results/sharing.md).
TEST_F(ReleaserTest, ParkingManyBlocksTakesNoKernelForEach) {
  std::vector<std::int64_t> apart;
  for (std::int64_t slot = 1; slot < 128; slot += 8) apart.push_back(slot);
  write(apart, 7);
  const std::uint64_t before = bench_.driver.calls(Call::cuLaunchKernel);
  bench_.release_when_idle(quick());
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_EQ(bench_.figures(pool_).parked, apart.size() * kGranuleBytes);
  EXPECT_LT(bench_.driver.calls(Call::cuLaunchKernel) - before, apart.size() / 2);
}

TEST_F(ReleaserTest, ZeroContentsCostNothing) {
  write({1, 2, 3}, 7);
  write({3, 9}, 0);
  for (const std::uint32_t g : {3u, 9u}) {
    std::memset(reinterpret_cast<void*>(bench_.address(pool_, g)), 0, kGranuleBytes);
  }
  bench_.release_when_idle(quick());
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_EQ(bench_.figures(pool_).parked, 2 * kGranuleBytes);
  EXPECT_FALSE(bench_.writable(pool_, 3));
  EXPECT_TRUE(bench_.is_zero(pool_, 9));
}

TEST_F(ReleaserTest, NothingIsReleasedWhileWorkIsUnfinished) {
  bench_.release_when_idle(quick());
  bench_.write_granules(pool_, four_, 7);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  bench_.driver.hold(bench_.stream, true);
  bench_.write_granules(pool_, four_, 8);
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(bench_.figures(pool_).resident, 4 * kGranuleBytes);
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_TRUE(bench_.holds(pool_, 4, 8));
}

TEST_F(ReleaserTest, NothingIsReleasedBeforeTheTimeout) {
  ReleaseSettings settings = quick();
  settings.idle_timeout = 10s;
  bench_.release_when_idle(settings);
  write(four_, 7);
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(bench_.figures(pool_).resident, 4 * kGranuleBytes);
}

TEST_F(ReleaserTest, TheLastRowsComeBackBeforeTheFirstWork) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  const std::uint64_t asked = bench_.requests();
  write({4}, 8);
  EXPECT_EQ(bench_.figures(pool_).resident, 4 * kGranuleBytes);
  EXPECT_LE(bench_.requests(), asked + 1);
  EXPECT_TRUE(bench_.holds(pool_, 3, 7));
  EXPECT_TRUE(bench_.holds(pool_, 4, 8));
}

TEST_F(ReleaserTest, ComingBackTakesNoLongerThanItsTime) {
  ReleaseSettings settings = quick();
  settings.restore_time = 0ms;
  bench_.release_when_idle(settings);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  write(one_, 8);
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes) << "the rest is served in place";
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

TEST_F(ReleaserTest, ReleasingAgainAndAgainKeepsContents) {
  bench_.release_when_idle(quick());
  Random random(3);
  std::map<std::uint32_t, std::uint64_t> contents;
  for (std::uint64_t round = 1; round <= 6; ++round) {
    std::vector<std::int64_t> slots;
    for (int i = 0; i < 5; ++i) slots.push_back(random() % 128);
    write(slots, round);
    for (const std::int64_t slot : slots) contents[static_cast<std::uint32_t>(slot)] = round;
    ASSERT_TRUE(eventually_resident(0));
    for (const auto& [g, value] : contents) ASSERT_TRUE(bench_.holds(pool_, g, value));
  }
}

// --- interrupted ----------------------------------------------------------------------

// The copy is made, then the engine writes the original: the copy is void.
TEST_F(ReleaserTest, AWriteAfterTheCopyIsNotLost) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  bench_.driver.hold(own_stream(), true);  // the release stands at its scan
  std::this_thread::sleep_for(200ms);
  write(four_, 8);
  bench_.driver.hold(own_stream(), false);
  write({2}, 9);
  ASSERT_TRUE(eventually_resident(0));
  EXPECT_TRUE(bench_.holds(pool_, 1, 8));
  EXPECT_TRUE(bench_.holds(pool_, 2, 9));
}

TEST_F(ReleaserTest, WorkAtAnyMomentOfAReleaseLosesNothing) {
  ReleaseSettings settings = quick();
  settings.idle_timeout = 20ms;
  bench_.release_when_idle(settings);
  Random random(29);
  std::map<std::uint32_t, std::uint64_t> contents;
  for (std::uint64_t round = 1; round <= 60; ++round) {
    std::vector<std::int64_t> slots;
    for (int i = 0; i < 4; ++i) slots.push_back(random() % 40);
    write(slots, round);
    for (const std::int64_t slot : slots) contents[static_cast<std::uint32_t>(slot)] = round;
    std::this_thread::sleep_for(std::chrono::microseconds(15000 + random() % 25000));
    for (const auto& [g, value] : contents) ASSERT_TRUE(bench_.holds(pool_, g, value)) << round;
  }
}

// Who submits during a release waits for a slice or a restore, not for its copies.
TEST_F(ReleaserTest, ASubmitterDoesNotWaitForTheCopiesOfARelease) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));  // now there is something to restore
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  write({60, 61, 62}, 8);
  // The next release stands in the middle of its work.
  bench_.driver.hold(own_stream(), true);
  std::this_thread::sleep_for(300ms);
  const auto begin = std::chrono::steady_clock::now();
  std::thread opener([&] {
    std::this_thread::sleep_for(2s);
    bench_.driver.hold(own_stream(), false);
  });
  bench_.write_granules(pool_, {60}, 9);
  const auto took = std::chrono::steady_clock::now() - begin;
  opener.join();
  EXPECT_LT(took, 1s);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
}

TEST_F(ReleaserTest, APoolCanBeFreedDuringARelease) {
  bench_.release_when_idle(quick());
  const PoolRecord* other = bench_.pool(128 * kMiB, "other");
  bench_.write_granules(other, four_, 5);
  write(four_, 7);
  bench_.driver.hold(own_stream(), true);
  std::this_thread::sleep_for(200ms);  // the scan is queued
  std::atomic<bool> freed{false};
  std::thread freeing([&] {
    Releaser::Pause pause(*bench_.releaser);
    EXPECT_EQ(bench_.memory->free(other->base), CUDA_SUCCESS);
    freed.store(true);
  });
  std::this_thread::sleep_for(50ms);
  EXPECT_FALSE(freed.load()) << "the scan reads the pool";
  bench_.driver.hold(own_stream(), false);
  freeing.join();
  ASSERT_TRUE(eventually_resident(0));
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

TEST_F(ReleaserTest, APoolCanBeFreedWhileAnotherThreadRestores) {
  bench_.release_when_idle(quick());
  const PoolRecord* other = bench_.pool(128 * kMiB, "other");
  bench_.write_granules(other, four_, 5);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  bench_.driver.hold(own_stream(), true);
  std::thread submitter([&] { bench_.write_granules(pool_, one_, 9); });
  std::this_thread::sleep_for(100ms);  // its copies are queued
  std::thread freeing([&] {
    Releaser::Pause pause(*bench_.releaser);
    EXPECT_EQ(bench_.memory->free(other->base), CUDA_SUCCESS);
  });
  std::this_thread::sleep_for(100ms);
  bench_.driver.hold(own_stream(), false);
  submitter.join();
  freeing.join();
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

// A guard that gave up between its copies never asks again.
TEST_F(ReleaserTest, WhatAGuardLeftUndoneHoldsUpAFreeUntilAllWorkHasEnded) {
  ReleaseSettings settings = quick();
  settings.restore_time = 0ms;
  bench_.release_when_idle(settings);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  bench_.driver.hold(bench_.stream, true);
  bench_.submit(bench_.stream, nullptr, {}, [] {});
  ASSERT_EQ(bench_.fault(pool_, 1).kind, AnswerKind::kCopyFirst);
  EXPECT_FALSE(bench_.releaser->look_whether_finished());
  EXPECT_EQ(bench_.memory->free(pool_->base, 0ms), CUDA_ERROR_NOT_READY);
  EXPECT_TRUE(bench_.holds(pool_, 1, 7));
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  EXPECT_TRUE(bench_.releaser->look_whether_finished());
  const Releaser::Pause pause(*bench_.releaser);
  EXPECT_EQ(bench_.memory->free(pool_->base, 0ms), CUDA_SUCCESS);
}

// A submission that found nothing to bring back before the release ended writes in
// place; the next one must not swap the page under it.
TEST_F(ReleaserTest, NothingComesBackUnderUnfinishedWork) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  const CUdeviceptr at = bench_.address(pool_, 1);
  bench_.driver.hold(bench_.stream, true);
  bench_.gate.enter();
  bench_.driver.enqueue(bench_.stream, {{at, at + kGranuleBytes}},
                        [&] { bench_.write(pool_, 1, 9); });
  bench_.gate.leave();
  const CUstream other = bench_.new_stream();
  bench_.write_granules_on(other, pool_, {2}, 8);
  ASSERT_TRUE(bench_.driver.drain(other));
  // The extent that was written was copied by its guard; 1 and 4 are others.
  EXPECT_GE(bench_.figures(pool_).parked, 2 * kGranuleBytes);
  bench_.driver.hold(bench_.stream, false);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  EXPECT_TRUE(bench_.holds(pool_, 1, 9));
  EXPECT_TRUE(bench_.holds(pool_, 2, 8));
}

TEST_F(ReleaserTest, FreeingDoesNotWaitForAWholeRelease) {
  // Pinning is slow here: parking 40 granules would take four seconds.
  bench_.driver.host_create_microseconds.store(100'000);
  bench_.release_when_idle(quick());
  const PoolRecord* other = bench_.pool(128 * kMiB, "other");
  std::vector<std::int64_t> many;
  for (std::int64_t i = 0; i < 40; ++i) many.push_back(i * 2);
  write(many, 7);
  ASSERT_TRUE(eventually([&] { return bench_.driver.calls(Call::cuMemcpyDtoDAsync_v2) > 2; }));
  const auto begin = std::chrono::steady_clock::now();
  {
    Releaser::Pause pause(*bench_.releaser);
    EXPECT_EQ(bench_.memory->free(other->base), CUDA_SUCCESS);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
  bench_.driver.host_create_microseconds.store(0);
  ASSERT_TRUE(eventually_resident(0)) << "and the release is taken up again";
}

// Opening a mapping ends no sooner than the copies to host memory that were submitted
// before it: a swap waits for whatever is copied beside it, the gate closed.
TEST_F(ReleaserTest, NoMoreThanOneBlockIsCopiedBesideASwap) {
  std::vector<std::int64_t> many;
  for (std::int64_t i = 0; i < 40; ++i) many.push_back(i * 2);  // each a block of its own
  write(many, 7);
  bench_.driver.host_create_microseconds.store(20'000);  // the host memory for each
  bench_.release_when_idle(quick());
  const auto copies = [&] { return bench_.driver.calls(Call::cuMemcpyDtoDAsync_v2); };
  ASSERT_TRUE(eventually([&] { return copies() >= 2; }));
  bench_.driver.hold(own_stream(), true);
  // It waits for a copy when it asks its stream again and again.
  std::uint64_t seen = copies(), asked = bench_.driver.calls(Call::cuStreamQuery);
  ASSERT_TRUE(eventually([&] {
    if (copies() != seen) {
      seen = copies();
      asked = bench_.driver.calls(Call::cuStreamQuery);
    }
    return bench_.driver.calls(Call::cuStreamQuery) > asked + 50;
  }));
  const std::uint64_t swapped = bench_.figures(pool_).parked / kGranuleBytes;
  EXPECT_LT(seen, 40u) << "held too late to show anything";
  EXPECT_EQ(seen - swapped, 1u);
  // And what was swapped is released beside the copies, but for the last.
  EXPECT_LE(bench_.memory->physical().device - bench_.figures(pool_).resident, kGranuleBytes);
  bench_.driver.hold(own_stream(), false);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  for (const std::int64_t g : many) {
    EXPECT_TRUE(bench_.holds(pool_, static_cast<std::uint32_t>(g), 7));
  }
}

// A stop in the middle of copies must not unmap what they touch.
TEST_F(ReleaserTest, StoppingWaitsForItsOwnCopies) {
  bench_.release_when_idle(quick());
  write(four_, 7);
  // The scan goes through; the stream is held as soon as copies are queued.
  ASSERT_TRUE(eventually([&] {
    if (bench_.driver.calls(Call::cuMemcpyDtoDAsync_v2) != 0) return true;
    return false;
  }));
  bench_.driver.hold(own_stream(), true);
  std::thread opener([&] {
    std::this_thread::sleep_for(100ms);
    bench_.driver.hold(own_stream(), false);
  });
  bench_.releaser->stop();
  opener.join();
  for (std::uint32_t g = 1; g < 5; ++g) EXPECT_TRUE(bench_.holds(pool_, g, 7));
}

TEST_F(ReleaserTest, StagingMappingsOfARestoreGoAwayWhileTheEngineIsBusy) {
  ReleaseSettings settings = quick();
  bench_.release_when_idle(settings);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(0));
  ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
  // Busy from here on: never idle for 60 ms.
  EXPECT_TRUE(eventually([&] {
    bench_.write_granules(pool_, one_, 9);
    bench_.driver.drain(bench_.stream);
    std::this_thread::sleep_for(5ms);
    return bench_.memory->host_in_use() == 0;
  })) << "the host memory of what was restored";
}

// --- pins -----------------------------------------------------------------------------

TEST_F(ReleaserTest, PinnedGranulesAreNeverReleased) {
  bench_.release_when_idle(quick());
  bench_.memory->pin(bench_.address(pool_, 2), 1);
  write(four_, 7);
  ASSERT_TRUE(eventually_resident(1));
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
  EXPECT_TRUE(bench_.holds(pool_, 2, 7));
}

// --- everything at once ------------------------------------------------------------------

TEST(ReleaserStressTest, ManyWritersReleasesAndFreesLoseNothing) {
  EngineBench bench({.host_budget = 48 * kMiB}, 2 * kGiB);
  ReleaseSettings settings;
  settings.idle_timeout = 10ms;
  settings.slice = 1ms;
  bench.release_when_idle(settings);
  constexpr int kWriters = 3;
  std::mutex submission;  // as the gate's: one submitter at a time
  std::vector<std::thread> writers;
  for (int t = 0; t < kWriters; ++t) {
    writers.emplace_back([&bench, &submission, t] {
      Random random(static_cast<std::uint32_t>(100 + t));
      const CUstream stream = bench.new_stream();
      const PoolRecord* pool = bench.pool(80 * kMiB, "group");
      std::map<std::uint32_t, std::uint64_t> contents;
      for (std::uint64_t round = 1; round <= 40; ++round) {
        std::vector<std::int64_t> slots;
        for (int i = 0; i < 3; ++i) slots.push_back(random() % 40);
        {
          std::lock_guard lock(submission);
          bench.write_granules_on(stream, pool, slots, round);
        }
        EXPECT_TRUE(bench.driver.drain(stream));
        for (const std::int64_t slot : slots) contents[static_cast<std::uint32_t>(slot)] = round;
        std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
        for (const auto& [g, value] : contents) {
          if (bench.holds(pool, g, value)) continue;
          ADD_FAILURE() << "writer " << t << " lost granule " << g << " of round " << value;
          return;
        }
        if (round % 20 == 0) {
          bench.driver.drain(stream);
          Releaser::Pause pause(*bench.releaser);
          EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
          pool = bench.pool(80 * kMiB, "group");
          contents.clear();
        }
      }
    });
  }
  for (std::thread& thread : writers) thread.join();
}

}  // namespace
}  // namespace kvshim::vmm::testing
