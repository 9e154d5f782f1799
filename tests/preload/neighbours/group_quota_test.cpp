// How a group's limit is divided.
#include "preload/group_quota.h"

#include <gtest/gtest.h>

#include <numeric>

namespace kvshim::preload {
namespace {

std::vector<std::uint64_t> shares(std::uint64_t limit, const std::vector<QuotaMember>& members) {
  std::vector<std::uint64_t> all;
  for (std::size_t i = 0; i < members.size(); ++i) all.push_back(fair_share(limit, members, i));
  return all;
}

TEST(FairShare, WhoWantsLittleGetsItAndTheOthersTheRestEvenly) {
  EXPECT_EQ(shares(1000, {{0, 100}, {0, 900}, {0, 900}}),
            (std::vector<std::uint64_t>{100, 450, 450}));
}

TEST(FairShare, WhatNobodyWantsIsDealtOut) {
  EXPECT_EQ(shares(1000, {{0, 100}, {0, 300}}), (std::vector<std::uint64_t>{400, 600}));
  EXPECT_EQ(shares(1000, {{0, 0}}), (std::vector<std::uint64_t>{1000}));
}

TEST(FairShare, NobodyGetsLessThanWhatItCannotGiveBack) {
  EXPECT_EQ(shares(1000, {{700, 800}, {0, 900}}), (std::vector<std::uint64_t>{700, 300}));
  EXPECT_EQ(shares(500, {{700, 800}, {0, 900}}), (std::vector<std::uint64_t>{700, 0}));
}

TEST(FairShare, NeverExceedsTheLimitTogether) {
  std::uint64_t seed = 1;
  const auto chance = [&](std::uint64_t below) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % below;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<QuotaMember> members(1 + chance(7));
    std::uint64_t floors = 0, demands = 0;
    for (QuotaMember& one : members) {
      one.floor = chance(100);
      one.demand = one.floor + chance(400);
      floors += one.floor;
      demands += one.demand;
    }
    const std::uint64_t limit = floors + chance(500);
    const std::vector<std::uint64_t> all = shares(limit, members);
    const std::uint64_t sum = std::accumulate(all.begin(), all.end(), std::uint64_t{0});
    EXPECT_LE(sum, limit);
    EXPECT_GE(sum + members.size(), limit) << "nothing is left over";
    for (std::size_t i = 0; i < members.size(); ++i) EXPECT_GE(all[i], members[i].floor);
    if (demands <= limit) {
      for (std::size_t i = 0; i < members.size(); ++i) EXPECT_GE(all[i], members[i].demand);
    }
  }
}

TEST(FairShare, CanTakeTheLargestLimits) {
  EXPECT_EQ(shares(UINT64_MAX / 4, {{0, UINT64_MAX / 2}, {1, UINT64_MAX / 2}})[0], UINT64_MAX / 8);
}

}  // namespace
}  // namespace kvshim::preload
