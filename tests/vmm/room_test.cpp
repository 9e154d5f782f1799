// The limit, what an engine is told of memory, and waiting for neighbours.
#include <gtest/gtest.h>

#include "tests/vmm/engine_bench.h"
#include "tests/vmm/fake_pressure.h"
#include "vmm/room_wait.h"

namespace kvshim::vmm::testing {
namespace {

std::uint64_t total_memory(const MemoryBench& bench) {
  std::size_t free = 0, total = 0;
  EXPECT_EQ(bench.memory->memory_info(&free, &total), CUDA_SUCCESS);
  return total;
}

// --- the limit ------------------------------------------------------------------------

TEST(LimitTest, AFaultBeyondItIsServedInHostMemory) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(256 * kMiB);
  const PhysicalBytes held = bench.memory->physical();
  bench.memory->limits().limit.store(held.zero + 2 * kGranuleBytes);
  for (std::uint32_t g = 0; g < 4; ++g) {
    EXPECT_EQ(bench.fault(pool, g * 9).kind, AnswerKind::kPresent);
    EXPECT_TRUE(bench.writable(pool, g * 9));
  }
  EXPECT_EQ(bench.figures(pool).resident, 2 * kGranuleBytes);
  EXPECT_EQ(bench.figures(pool).parked, 2 * kGranuleBytes);
}

TEST(LimitTest, CountsWhatIsNoPool) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(256 * kMiB);
  bench.memory->limits().limit.store(kGiB);
  bench.memory->limits().other_bytes.store(kGiB - bench.memory->physical().zero - kGranuleBytes);
  bench.fault(pool, 3);
  bench.fault(pool, 30);
  EXPECT_EQ(bench.figures(pool).resident, kGranuleBytes);
  EXPECT_EQ(bench.memory->over_limit(), 0u);
  bench.memory->limits().other_bytes.fetch_add(kGranuleBytes / 2);
  EXPECT_EQ(bench.memory->over_limit(), kGranuleBytes / 2);
  bench.memory->limits().other_bytes.store(4 * kGiB);
  EXPECT_EQ(bench.memory->over_limit(), kGranuleBytes) << "no more than pools can give";
}

// As the share of a group does, which comes when the first pool has made the process a member.
TEST(LimitTest, ThatComesBetweenThePoolsOfAnEngineRefusesNoneOfThem) {
  MemoryBench bench;
  const PoolRecord* const first = bench.pool(256 * kMiB);
  bench.memory->limits().shown.store(400 * kMiB);
  bench.memory->limits().limit.store(400 * kMiB);
  EXPECT_EQ(total_memory(bench), 400 * kMiB) << "and yet it is what is told";
  const PoolRecord* const second = bench.pool(256 * kMiB);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(bench.memory->free(first->base), CUDA_SUCCESS);
  EXPECT_EQ(bench.memory->free(second->base), CUDA_SUCCESS);
  const PoolRecord* third = nullptr;
  EXPECT_EQ(bench.memory->allocate(512 * kMiB, "g", nullptr, &third), CUDA_ERROR_OUT_OF_MEMORY)
      << "the next engine has been told";
}

TEST(LimitTest, DoesNotKillAnEngineWhoseHostMemoryIsFull) {
  MemoryBench bench({.host_budget = 0, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(256 * kMiB);
  bench.memory->limits().limit.store(1);
  EXPECT_EQ(bench.fault(pool, 3).kind, AnswerKind::kPresent);
  EXPECT_TRUE(bench.writable(pool, 3));
  EXPECT_EQ(bench.memory->statistics().faults_over_limit.load(), 1u);
  const std::vector<Event> events = bench.events();
  EXPECT_TRUE(std::any_of(events.begin(), events.end(), [](const Event& event) {
    return event.text.find("above the limit") != std::string::npos;
  }));
}

TEST(LimitTest, NothingComesBackBeyondIt) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(256 * kMiB);
  bench.fault(pool, 3);
  ASSERT_EQ(bench.park_all(), 1u);
  bench.memory->limits().limit.store(1);
  EXPECT_EQ(bench.bring_back(bench.parked()), 0u);
  bench.memory->limits().limit.store(0);
  EXPECT_EQ(bench.bring_back(bench.parked()), 1u);
}

TEST(LimitTest, IsTheTotalThatAnEngineSees) {
  MemoryBench bench;
  bench.memory->limits().limit.store(2 * kGiB);
  bench.memory->limits().other_bytes.store(256 * kMiB);
  EXPECT_EQ(total_memory(bench), 2 * kGiB);
  EXPECT_EQ(bench.free_memory(), 2 * kGiB - 256 * kMiB);
  bench.pool(kGiB);
  EXPECT_EQ(bench.free_memory(), kGiB - 256 * kMiB);
  const PoolRecord* record = nullptr;
  EXPECT_EQ(bench.memory->allocate(kGiB, "kv", bench.driver.context(), &record),
            CUDA_ERROR_OUT_OF_MEMORY);
}

// --- the private view -----------------------------------------------------------------

TEST(PrivateViewTest, NeighboursPoolsAreNotThere) {
  FakePressure neighbours;
  MemoryBench bench({.host_budget = kGiB, .pressure = &neighbours});
  const std::uint64_t alone = bench.free_memory();
  bench.driver.take_gpu_memory(6 * kGiB);  // a neighbour's pools ...
  neighbours.elsewhere.store(6 * kGiB);
  EXPECT_EQ(bench.free_memory(), alone);
  bench.driver.take_gpu_memory(kGiB);  // ... and weights
  EXPECT_EQ(bench.free_memory(), alone - kGiB);
  EXPECT_EQ(total_memory(bench), 8 * kGiB);
}

TEST(PrivateViewTest, NeverShowsMoreThanTheGpuHas) {
  FakePressure neighbours;
  MemoryBench bench({.host_budget = kGiB, .pressure = &neighbours});
  neighbours.elsewhere.store(20 * kGiB);  // figures that are older than what was given back
  EXPECT_EQ(bench.free_memory(), 8 * kGiB);
}

TEST(PrivateViewTest, APoolIsGrantedAlthoughNeighboursAreBusy) {
  FakePressure neighbours;
  MemoryBench bench({.host_budget = kGiB, .pressure = &neighbours});
  bench.driver.take_gpu_memory(7 * kGiB);
  const PoolRecord* record = nullptr;
  EXPECT_EQ(bench.memory->allocate(4 * kGiB, "kv", bench.driver.context(), &record),
            CUDA_ERROR_OUT_OF_MEMORY);
  neighbours.elsewhere.store(7 * kGiB);
  EXPECT_EQ(bench.memory->allocate(4 * kGiB, "kv", bench.driver.context(), &record), CUDA_SUCCESS);
}

// --- waiting for neighbours -----------------------------------------------------------

class RoomWaitTest : public ::testing::Test {
 protected:
  RoomWaitTest()
      : bench_({.host_budget = kGiB,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .pressure = &neighbours_}) {
    pool_ = bench_.pool(256 * kMiB);
    rest_ = bench_.driver.gpu_free() - kFloor;
    bench_.driver.take_gpu_memory(rest_);
  }
  std::chrono::nanoseconds write() {
    const auto begin = std::chrono::steady_clock::now();
    bench_.write_granules(pool_, slots_, 7);
    EXPECT_TRUE(bench_.driver.drain(bench_.stream));
    return std::chrono::steady_clock::now() - begin;
  }

  FakePressure neighbours_;
  EngineBench bench_;
  const PoolRecord* pool_ = nullptr;
  std::uint64_t rest_ = 0;
  const std::vector<std::int64_t> slots_ = {5};
};

TEST_F(RoomWaitTest, AFaultThatFindsNoRoomGetsWhatANeighbourGives) {
  std::thread giver([&] {
    EXPECT_TRUE(eventually([&] { return neighbours_.asks.load() != 0; }));
    bench_.driver.give_gpu_memory(kGiB);
    neighbours_.answered.store(kGiB);
  });
  write();
  giver.join();
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
  EXPECT_EQ(bench_.memory->statistics().needs_answered.load(), 1u);
  EXPECT_EQ(neighbours_.asked_for.load(), kGranuleBytes);
  EXPECT_EQ(neighbours_.ended_with.load(), 1u);
}

TEST_F(RoomWaitTest, WithoutAnAnswerItIsServedInHostMemorySoon) {
  EXPECT_LT(write(), 2s);
  EXPECT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
  EXPECT_TRUE(bench_.holds(pool_, 5, 7));
  EXPECT_EQ(bench_.memory->statistics().needs_unanswered.load(), 1u);
}

TEST_F(RoomWaitTest, WhatAnotherNeedsMoreUrgentlyIsNotTaken) {
  neighbours_.before_us.store(kGiB);
  std::thread giver([&] {
    EXPECT_TRUE(eventually([&] { return neighbours_.asks.load() != 0; }));
    bench_.driver.give_gpu_memory(kGiB);
  });
  write();
  giver.join();
  EXPECT_EQ(neighbours_.ended_with.load(), 0u);
}

TEST_F(RoomWaitTest, NobodyIsAskedWhenNobodyIsThere) {
  neighbours_.there.store(false);
  write();
  EXPECT_EQ(neighbours_.asks.load(), 0u);
  EXPECT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
}

TEST_F(RoomWaitTest, ALimitIsNoReasonToAsk) {
  bench_.driver.give_gpu_memory(rest_);
  bench_.memory->limits().limit.store(1);
  write();
  EXPECT_EQ(neighbours_.asks.load(), 0u);
  EXPECT_EQ(bench_.figures(pool_).parked, kGranuleBytes);
}

TEST_F(RoomWaitTest, WhatAQuickSequenceWillNeedIsAskedForBeforeItLacks) {
  bench_.driver.give_gpu_memory(rest_);
  neighbours_.ahead.store(rest_);  // more than is free beyond the fault
  write();
  EXPECT_EQ(neighbours_.asks_ahead.load(), 1u);
  EXPECT_EQ(neighbours_.asked_ahead_for.load(), kGranuleBytes);
  EXPECT_EQ(neighbours_.asks.load(), 0u) << "nobody waits";
  EXPECT_EQ(bench_.figures(pool_).resident, kGranuleBytes);
}

TEST_F(RoomWaitTest, NothingIsAskedForAheadWhileEnoughIsFree) {
  bench_.driver.give_gpu_memory(rest_);
  neighbours_.ahead.store(kGranuleBytes);
  write();
  EXPECT_EQ(neighbours_.asks_ahead.load(), 0u);
}

class Waits : public ::testing::Test {
 protected:
  std::chrono::nanoseconds wait(const std::function<bool(std::uint64_t)>& lacking) {
    const auto begin = std::chrono::steady_clock::now();
    got_ = wait_for_room(neighbours_, Lack::kFault, kMiB, {50ms, 200ms, 10s}, lacking, statistics_,
                         events_);
    return std::chrono::steady_clock::now() - begin;
  }
  FakePressure neighbours_;
  Statistics statistics_;
  EventQueue events_;
  bool got_ = false;
};

TEST_F(Waits, GoesOnForAsLongAsSomebodyGives) {
  int looks = 0;
  const auto took = wait([&](std::uint64_t) {
    neighbours_.answered.fetch_add(kMiB);
    return ++looks < 1000;
  });
  EXPECT_TRUE(got_);
  EXPECT_GT(took, 50ms);
  const auto told = events_.drain();
  ASSERT_EQ(told.size(), 1u) << "what took long is told, once";
  EXPECT_NE(told[0].text.find("there is room"), std::string::npos) << told[0].text;
}

TEST_F(Waits, HearsAWordThatCameAtOnce) {
  neighbours_.on_ask = [this](std::uint64_t) { neighbours_.answered.store(1); };
  const auto begin = std::chrono::steady_clock::now();
  wait([&](std::uint64_t) { return std::chrono::steady_clock::now() - begin < 100ms; });
  EXPECT_TRUE(got_) << "somebody has begun: that is worth more than the first patience of 50 ms";
}

// Others may have taken what was given for it.
TEST_F(Waits, AsksAgainWhenWhatWasGivenIsNotThere) {
  neighbours_.on_ask = [this](std::uint64_t) { neighbours_.answered.store(0); };
  wait([&](std::uint64_t) {
    if (neighbours_.asks.load() == 1) neighbours_.answered.store(kMiB);
    return neighbours_.asks.load() < 2;
  });
  EXPECT_TRUE(got_);
  EXPECT_EQ(neighbours_.asks.load(), 2u);
}

TEST_F(Waits, EndsWhenAllHaveRefused) {
  int looks = 0;
  wait([&](std::uint64_t) {
    if (++looks == 3) neighbours_.refused.store(true);
    return true;
  });
  EXPECT_FALSE(got_);
  EXPECT_EQ(looks, 3);
}

TEST_F(Waits, DoesNotBeginWhenTheLastWasInVainJustNow) {
  neighbours_.worth_waiting.store(false);
  wait([](std::uint64_t) {
    ADD_FAILURE() << "nobody looks";
    return true;
  });
  EXPECT_FALSE(got_);
  EXPECT_EQ(neighbours_.asks.load(), 1u) << "but it is said";
  EXPECT_EQ(statistics_.needs_unanswered.load(), 0u);
}

}  // namespace
}  // namespace kvshim::vmm::testing
