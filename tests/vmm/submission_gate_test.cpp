#include "vmm/submission_gate.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace kvshim::vmm {
namespace {

using namespace std::chrono_literals;

TEST(SubmissionGateTest, CannotBeClosedWhileSomebodyIsInside) {
  SubmissionGate gate;
  gate.enter();
  EXPECT_FALSE(gate.try_close(gate.epoch()));
  gate.leave();
  EXPECT_TRUE(gate.try_close(gate.epoch()));
  gate.open();
}

TEST(SubmissionGateTest, CannotBeClosedWhenSomebodyWasInsideSinceTheEpoch) {
  SubmissionGate gate;
  const std::uint64_t epoch = gate.epoch();
  gate.enter();
  gate.leave();
  EXPECT_FALSE(gate.try_close(epoch));
  gate.enter();  // a failed close leaves it open
  gate.leave();
}

TEST(SubmissionGateTest, ASubmitterWaitsWhileItIsClosedAndIsSeenWaiting) {
  SubmissionGate gate;
  ASSERT_TRUE(gate.try_close(gate.epoch()));
  std::atomic<bool> inside{false};
  std::thread submitter([&] {
    gate.enter();
    inside.store(true);
    gate.leave();
  });
  while (!gate.anyone_waiting()) std::this_thread::yield();
  std::this_thread::sleep_for(5ms);
  EXPECT_FALSE(inside.load());
  EXPECT_EQ(gate.epoch(), 0u) << "who waits has not entered";
  gate.open();
  submitter.join();
  EXPECT_FALSE(gate.anyone_waiting());
  EXPECT_EQ(gate.epoch(), 1u);
}

TEST(SubmissionGateTest, AnEntryWakesWhoWaitsForOne) {
  SubmissionGate gate;
  std::thread waiter([&] { gate.wait_for_entry(0); });
  std::this_thread::sleep_for(2ms);
  gate.enter();
  gate.leave();
  waiter.join();
}

// The closer owns `shared` while the gate is closed and a submitter while it is
// inside: without the Dekker pair both would write it at once. Plain variable on
// purpose: ThreadSanitizer sees a breach too.
TEST(SubmissionGateTest, InsideAndClosedExcludeEachOtherUnderStress) {
  SubmissionGate gate;
  std::uint64_t closer_writes = 0;
  std::atomic<int> inside{0};
  std::atomic<bool> ending{false};
  std::atomic<std::uint64_t> breaches{0}, entries{0};
  std::vector<std::thread> submitters;
  for (int t = 0; t < 3; ++t) {
    submitters.emplace_back([&] {
      for (int i = 0; i < 4000; ++i) {
        gate.enter();
        inside.fetch_add(1);
        const std::uint64_t before = closer_writes;
        if (i % 16 == 0) std::this_thread::yield();
        if (before != closer_writes) breaches.fetch_add(1);
        inside.fetch_sub(1);
        entries.fetch_add(1);
        gate.leave();
        if (i % 8 == 0) std::this_thread::sleep_for(10us);
      }
    });
  }
  std::uint64_t closed = 0;
  std::thread closer([&] {
    while (!ending.load()) {
      if (!gate.try_close(gate.epoch())) continue;
      if (inside.load() != 0) breaches.fetch_add(1);
      ++closer_writes;
      ++closed;
      if (inside.load() != 0) breaches.fetch_add(1);
      gate.open();
    }
  });
  for (std::thread& thread : submitters) thread.join();
  ending.store(true);
  closer.join();
  EXPECT_EQ(breaches.load(), 0u);
  EXPECT_EQ(entries.load(), 12000u);
  EXPECT_EQ(gate.epoch(), 12000u);
  EXPECT_GT(closed, 0u);
}

}  // namespace
}  // namespace kvshim::vmm
