// Calls that look at mappings and swaps of them wait for each other, and for nothing else.
#include "vmm/mapping_look.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <thread>

namespace kvshim::vmm {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr AddressRange kHere{0x1000, 0x3000}, kBeside{0x3000, 0x4000}, kAcross{0x2000, 0x9000};
constexpr std::array kLookedAt = {AddressRange{0x800, 0x900}, kHere};
// Less than a swap waits for a look that never ends.
constexpr auto kNoWait = 10ms;

std::chrono::nanoseconds time_of(const auto& action) {
  const auto begin = Clock::now();
  action();
  return Clock::now() - begin;
}

// The look's thread is not the one that polls: its own time would say that it is past.
TEST(MappingLookTest, ASwapWaitsForTheLooksAtItsMappings) {
  std::atomic<bool> looking{false}, swapped_elsewhere{false}, returned{false};
  std::thread call([&] {
    MappingLook look(kLookedAt);
    looking.store(true);
    for (int i = 0; i < 15 && !swapped_elsewhere.load(); ++i) std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(swapped_elsewhere.load());
    std::this_thread::sleep_for(2ms);
    returned.store(true);
  });
  while (!looking.load()) std::this_thread::yield();
  { const MappingSwap elsewhere(kBeside); }
  swapped_elsewhere.store(true);
  const MappingSwap swap(kAcross);
  EXPECT_TRUE(returned.load());
  call.join();
}

TEST(MappingLookTest, ALookWaitsForTheSwapOfItsMappings) {
  std::optional<MappingSwap> swap(kAcross);
  const std::array elsewhere = {AddressRange{0x100, 0x2000}};
  EXPECT_LT(time_of([&] { MappingLook look(elsewhere); }), kNoWait);
  std::atomic<bool> ended{false};
  std::thread server([&] {
    std::this_thread::sleep_for(30ms);
    ended.store(true);
    swap.reset();
  });
  MappingLook look(kLookedAt);
  EXPECT_TRUE(ended.load());
  server.join();
}

TEST(MappingLookTest, NobodyKnowsWhereItLooks) {
  std::optional<MappingSwap> swap(kBeside);
  std::thread server([&] {
    std::this_thread::sleep_for(30ms);
    swap.reset();
  });
  EXPECT_GE(time_of([] { MappingLook look({}); }), 20ms);
  server.join();
}

// It waits for the GPU, and the GPU for the swap.
TEST(MappingLookTest, ACallThatSleepsOnIsWaitedForOnce) {
  constexpr int kMore = 50;
  std::atomic<bool> looking{false};
  std::chrono::nanoseconds first{}, more{};
  // Another thread, and made before: what the look's thread does itself would say that it is past.
  std::thread server([&] {
    while (!looking.load()) std::this_thread::yield();
    first = time_of([] { MappingSwap swap(kHere); });
    more = time_of([] {
      for (int i = 0; i < kMore; ++i) MappingSwap swap(kHere);
    });
  });
  MappingLook look(kLookedAt);
  looking.store(true);
  server.join();
  EXPECT_GE(first, 15ms);
  EXPECT_LT(more, kMore * 15ms);
}

// Asked no more often than a look that sleeps is for 20 ms.
TEST(MappingLookTest, ACallThatSpinsIsPastItsLook) {
  std::chrono::nanoseconds least = 1h;
  for (int i = 0; i < 10; ++i) {
    std::atomic<bool> looking{false}, end{false};
    std::thread call([&] {
      MappingLook look(kLookedAt);
      looking.store(true);
      while (!end.load()) continue;
    });
    while (!looking.load()) std::this_thread::yield();
    least = std::min(least, time_of([] { MappingSwap swap(kHere); }));
    end.store(true);
    call.join();
  }
  EXPECT_LT(least, 15ms);
}

}  // namespace
}  // namespace kvshim::vmm
