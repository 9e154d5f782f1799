#include "preload/giving.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvshim::preload {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kFloor = 512 * kMiB;
using Kind = NeedSeen::Kind;

TEST(GivingRulesTest, WhatTheGpuHasFreeIsNotGivenAgain) {
  const std::vector<NeedSeen> needs{{256 * kMiB, Kind::kFault, 0, 1}};
  EXPECT_EQ(uncovered(needs, 0, kFloor, 100), kFloor + 256 * kMiB);
  EXPECT_EQ(uncovered(needs, kFloor + 200 * kMiB, kFloor, 100), 56 * kMiB);
  EXPECT_EQ(uncovered(needs, kFloor + 256 * kMiB, kFloor, 100), 0u);
  EXPECT_EQ(uncovered({}, 0, kFloor, 100), 0u) << "nobody needs anything";
}

TEST(GivingRulesTest, NeedsAddUp) {
  const std::vector<NeedSeen> needs{{256 * kMiB, Kind::kFault, 0, 1},
                                    {512 * kMiB, Kind::kFault, 3, 2}};
  EXPECT_EQ(uncovered(needs, kFloor, kFloor, 100), 768 * kMiB);
}

TEST(GivingRulesTest, AnEnginesOwnAllocationMayHaveTheFloor) {
  const std::vector<NeedSeen> needs{{256 * kMiB, Kind::kPlain, 0, 1}};
  EXPECT_EQ(uncovered(needs, 512 * kMiB, kFloor, 100), 0u);
  EXPECT_GE(uncovered(needs, 0, kFloor, 100), 256 * kMiB);
  EXPECT_LT(uncovered(needs, 0, kFloor, 100), 256 * kMiB + kFloor);
}

TEST(GivingRulesTest, OnlyTheReallyIdleGiveForWhatCanWait) {
  const std::vector<NeedSeen> needs{{256 * kMiB, Kind::kRestore, 0, 1}};
  EXPECT_EQ(uncovered(needs, 0, kFloor, kLeastIdleForRestoreMs - 1), 0u);
  EXPECT_NE(uncovered(needs, 0, kFloor, kLeastIdleForRestoreMs), 0u);
}

TEST(GivingRulesTest, AllocationsAreServedFirstThenPriorityThenWhoWaitsLonger) {
  const NeedSeen plain{1, Kind::kPlain, -5, 9}, high{1, Kind::kFault, 5, 8};
  const NeedSeen old{1, Kind::kFault, 0, 1}, young{1, Kind::kRestore, 0, 2};
  EXPECT_TRUE(served_before(plain, high));
  EXPECT_TRUE(served_before(high, old));
  EXPECT_TRUE(served_before(old, young));
  EXPECT_FALSE(served_before(young, old));
  EXPECT_FALSE(served_before(old, old)) << "nobody waits for itself";
}

TEST(GivingRulesTest, TheLowerPriorityGivesFirstThenTheLongerIdle) {
  const GiverSeen us{0, 1000, kMiB, 4};
  const std::vector<GiverSeen> before{{-1, 30, kMiB, 0}, {0, 2000, kMiB, 9}, {0, 1000, kMiB, 3}};
  const std::vector<GiverSeen> after{{1, 90000, kMiB, 0}, {0, 999, kMiB, 1}, {0, 1000, kMiB, 5}};
  EXPECT_EQ(givers_before(us, before), 3u);
  EXPECT_EQ(givers_before(us, after), 0u);
}

TEST(GivingRulesTest, WhoHasNothingOrWorksIsNotWaitedFor) {
  const GiverSeen us{0, 1000, kMiB, 4};
  const std::vector<GiverSeen> others{{-1, 5000, 0, 0}, {-1, kLeastIdleMs - 1, kMiB, 1}};
  EXPECT_EQ(givers_before(us, others), 0u);
}

// Exactly one of any number of givers goes first, whatever they are like.
TEST(GivingRulesTest, TurnsAreDistinct) {
  std::vector<GiverSeen> all;
  for (std::uint64_t i = 0; i < 12; ++i) {
    all.push_back({static_cast<std::int64_t>(i % 3), 50 + i % 4, kMiB, i});
  }
  std::vector<bool> turns(all.size(), false);
  for (const GiverSeen& us : all) {
    const std::uint64_t turn = givers_before(us, all);
    ASSERT_LT(turn, turns.size());
    EXPECT_FALSE(turns[turn]);
    turns[turn] = true;
  }
}

}  // namespace
}  // namespace kvshim::preload
