// What a guard does with odd answers, without the server; and the watchdog that ends
// a wait.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/vmm/engine_bench.h"

namespace kvshim::vmm::testing {
namespace {

class UnservedGuardTest : public ::testing::Test {
 protected:
  void start(std::vector<std::int64_t> slots) {
    slots_ = std::move(slots);
    pool_ = bench_.pool(128 * kMiB);
    LinearWrite write{};
    write.slots = reinterpret_cast<std::uint64_t>(slots_.data());
    write.slot_bytes = 8;
    write.count = static_cast<std::uint32_t>(slots_.size());
    write.block = 1;
    write.destinations = 1;
    write.destination[0] = {pool_->base, kGranuleBytes, 0,
                            1,           pool_->base,   pool_->base + pool_->mapped_bytes};
    stream_ = bench_.driver.make_stream();
    ASSERT_EQ(bench_.memory->kernels().launch_linear_guard(stream_, write), CUDA_SUCCESS);
    ASSERT_TRUE(eventually([&] { return request() == 1; }));
  }
  std::uint32_t request() { return std::atomic_ref(channel().request).load(); }
  GuardChannel& channel() { return *bench_.memory->kernels().channel(); }
  void answer(std::uint32_t ticket) { std::atomic_ref(channel().answer).store(ticket); }

  MemoryBench bench_;
  std::vector<std::int64_t> slots_;
  const PoolRecord* pool_ = nullptr;
  CUstream stream_ = nullptr;
};

TEST_F(UnservedGuardTest, AnAnswerThatNamesNothingEndsIt) {
  start({3, 4});
  channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kPresent);
  channel().run_count = 0;
  answer(1);
  EXPECT_TRUE(bench_.driver.drain(stream_));
  EXPECT_EQ(request(), 1u);
}

TEST_F(UnservedGuardTest, AnAnswerWithoutProgressEndsIt) {
  start({3, 4});
  channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kPresent);
  channel().run_count = 1;
  channel().runs[0] = {bench_.granule(pool_, 3), 1};
  answer(1);
  ASSERT_TRUE(eventually([&] { return request() == 2; })) << "progress: it asks for the rest";
  EXPECT_EQ(channel().wanted_count, 1u);
  EXPECT_EQ(channel().wanted[0].first, bench_.granule(pool_, 4));
  answer(2);  // the same once more
  EXPECT_TRUE(bench_.driver.drain(stream_));
  EXPECT_EQ(request(), 2u);
}

TEST_F(UnservedGuardTest, OthersLetItsAnswerComeFirstButNotForEver) {
  start({3});
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(bench_.memory->let_guards_first());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(2));
  bench_.memory->answer_waits_for_room(true);
  EXPECT_TRUE(bench_.memory->let_guards_first()) << "it may be what is released here";
  bench_.memory->answer_waits_for_room(false);
  std::atomic<bool> answered{false};
  std::thread server([&] {
    channel().run_count = 0;
    channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kPresent);
    answered.store(true);
    answer(1);
  });
  // Each call waits for a while, and the server needs no longer than some of them.
  while (!answered.load()) bench_.memory->let_guards_first();
  server.join();
  EXPECT_TRUE(bench_.driver.drain(stream_));
  const auto later = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) bench_.memory->let_guards_first();
  EXPECT_LT(std::chrono::steady_clock::now() - later, std::chrono::milliseconds(20))
      << "nobody asks: no waiting";
}

TEST_F(UnservedGuardTest, IsTellableToGiveUpAndLeavesTheLockFree) {
  start({3});
  std::atomic_ref(channel().give_up).store(1);
  EXPECT_TRUE(bench_.driver.drain(stream_));
  // Another guard does not wait for the lock.
  const CUstream other = bench_.driver.make_stream();
  const AbiRun run{bench_.granule(pool_, 9), 1};
  ASSERT_EQ(bench_.memory->kernels().launch_fixed_guard(other, std::span(&run, 1)), CUDA_SUCCESS);
  EXPECT_TRUE(bench_.driver.drain(other));
}

TEST_F(UnservedGuardTest, PerformsTheCopiesAndAsksOnAsTheSameRequest) {
  start({3});
  std::vector<std::uint64_t> from(kGranuleBytes / 8, 0x1234), to(kGranuleBytes / 8, 0);
  channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kCopyFirst);
  channel().copy_count = 1;
  channel().copies[0] = {reinterpret_cast<std::uint64_t>(from.data()),
                         reinterpret_cast<std::uint64_t>(to.data()), kGranuleBytes};
  answer(1);
  ASSERT_TRUE(eventually([&] { return request() == 2; }));
  EXPECT_EQ(from, to);
  EXPECT_EQ(channel().request_kind, static_cast<std::uint32_t>(RequestKind::kCopied));
  channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kFailed);
  answer(2);
  EXPECT_TRUE(bench_.driver.drain(stream_));
}

// --- the watchdog ------------------------------------------------------------------

TEST_F(UnservedGuardTest, TheWatchdogEndsAWaitWithoutProgressAfterItsPatience) {
  GuardWatchdog watchdog(*bench_.memory, 300);
  watchdog.start();
  const auto begin = std::chrono::steady_clock::now();
  start({3});
  EXPECT_TRUE(bench_.driver.drain(stream_));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 250ms);
  EXPECT_EQ(channel().give_up, 1u);
  watchdog.stop();
  EXPECT_EQ(bench_.events().size(), 1u);
}

TEST_F(UnservedGuardTest, AfterGivingUpFaultsAreServedAgainOnceTheServerGetsOn) {
  GuardWatchdog watchdog(*bench_.memory, 300);
  watchdog.start();
  start({3});
  EXPECT_TRUE(bench_.driver.drain(stream_));
  ASSERT_EQ(channel().give_up, 1u);
  channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kFailed);
  answer(1);  // late
  EXPECT_TRUE(eventually([&] { return std::atomic_ref(channel().give_up).load() == 0; }));
  watchdog.stop();
}

TEST_F(UnservedGuardTest, TheWatchdogCountsAnewForEachRequest) {
  GuardWatchdog watchdog(*bench_.memory, 500);
  watchdog.start();
  start({1, 2, 3, 4, 5});
  for (std::uint32_t i = 1; i <= 4; ++i) {  // more than the patience in all
    std::this_thread::sleep_for(250ms);
    channel().answer_kind = static_cast<std::uint32_t>(AnswerKind::kPresent);
    channel().run_count = 1;
    channel().runs[0] = {bench_.granule(pool_, i), 1};
    answer(i);
    ASSERT_TRUE(eventually([&] { return request() == i + 1; }));
  }
  EXPECT_EQ(channel().give_up, 0u);
  channel().run_count = 0;
  answer(5);
  EXPECT_TRUE(bench_.driver.drain(stream_));
  watchdog.stop();
  EXPECT_EQ(channel().give_up, 0u);
}

}  // namespace
}  // namespace kvshim::vmm::testing
