#include "preload/address_set.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace kvshim::preload {
namespace {

constexpr std::uint64_t kBase = 0x6000'0020'0000;

TEST(AddressSet, KnowsWhatWasPutInAndNothingElse) {
  const auto set = std::make_unique<AddressSet<14, 5>>();
  for (std::uint64_t i = 0; i < 300'000; ++i) ASSERT_TRUE(set->insert(kBase + i * 1024));
  for (std::uint64_t i = 0; i < 300'000; ++i) {
    ASSERT_TRUE(set->contains(kBase + i * 1024)) << i;
    ASSERT_FALSE(set->contains(kBase + i * 1024 + 8)) << i;
  }
  EXPECT_TRUE(set->insert(kBase)) << "as before";
}

TEST(AddressSet, SaysWhenItIsFull) {
  AddressSet<4, 2> set;  // 16 and 64 slots
  std::uint64_t taken = 0;
  while (taken < 1000 && set.insert(kBase + taken * 512)) ++taken;
  EXPECT_GT(taken, 16u) << "it grows";
  EXPECT_LE(taken, 80u);
  EXPECT_FALSE(set.contains(kBase + taken * 512));
  for (std::uint64_t i = 0; i < taken; ++i) EXPECT_TRUE(set.insert(kBase + i * 512));
}

TEST(AddressSet, ForgottenAddressesLeaveRoomForOthers) {
  AddressSet<4, 2> set;
  for (int pool = 0; pool < 1000; ++pool) {
    for (std::uint64_t i = 0; i < 10; ++i) {
      ASSERT_TRUE(set.insert(kBase + i * 512)) << pool;
      ASSERT_TRUE(set.insert(2 * kBase + i)) << pool;
    }
    set.forget(kBase, 10 * 512);
    for (std::uint64_t i = 0; i < 10; ++i) {
      ASSERT_FALSE(set.contains(kBase + i * 512)) << pool;
      ASSERT_TRUE(set.contains(2 * kBase + i)) << pool;
    }
  }
}

TEST(AddressSet, TakesFromSeveralThreadsAtOnce) {
  const auto set = std::make_unique<AddressSet<6, 5>>();
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&set, thread] {
      for (std::uint64_t i = 0; i < 5000; ++i) {
        EXPECT_TRUE(set->insert(kBase + (i + thread * 2500) * 512));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::uint64_t i = 0; i < 12'500; ++i) ASSERT_TRUE(set->contains(kBase + i * 512)) << i;
}

}  // namespace
}  // namespace kvshim::preload
