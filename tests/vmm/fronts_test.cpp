#include <gtest/gtest.h>

#include "vmm/fronts.h"

namespace kvshim::vmm {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr ReadAheadLimits kLimits;

TEST(FrontsTest, AFirstFaultTakesOneGranuleAndNothingAhead) {
  Fronts fronts;
  EXPECT_EQ(fronts.order_for(7, kLimits, {1024 * kMiB, 24}), 0);
  fronts.advance({7, 0});
  EXPECT_EQ(fronts.ahead(kLimits, {1024 * kMiB, 24}), std::nullopt);
}

TEST(FrontsTest, ASequenceIsGoneAheadOfOnceAndAgainWhenItMoves) {
  Fronts fronts;
  fronts.advance({7, 0});
  fronts.advance({8, 0});
  const GroupHolding much{std::uint64_t{64} << 30, 24};
  const auto piece = fronts.ahead(kLimits, much);
  ASSERT_TRUE(piece.has_value());
  EXPECT_EQ(piece->offset, 9u);
  EXPECT_EQ(fronts.ahead(kLimits, much), piece) << "the same until it is done";
  fronts.ahead_done(9);
  EXPECT_EQ(fronts.ahead(kLimits, much), std::nullopt);
  EXPECT_TRUE(fronts.advance_if_expected({9, piece->order}));
  ASSERT_TRUE(fronts.ahead(kLimits, much).has_value());
  EXPECT_EQ(fronts.ahead(kLimits, much)->offset, 9 + order_granules(piece->order));
}

TEST(FrontsTest, WhatNoFrontExpectsIsNoSequence) {
  Fronts fronts;
  fronts.advance({7, 0});
  EXPECT_FALSE(fronts.advance_if_expected({9, 0}));
  EXPECT_TRUE(fronts.advance_if_expected({8, 0}));
}

TEST(FrontsTest, IdlenessEndsSequencesAndKeepsPlaces) {
  Fronts fronts;
  const GroupHolding much{std::uint64_t{64} << 30, 24};
  fronts.advance({7, 0});
  fronts.advance({8, 3});
  fronts.reset_sequences();
  EXPECT_EQ(fronts.ahead(kLimits, much), std::nullopt);
  EXPECT_EQ(fronts.order_for(16, kLimits, much), 1) << "grows from one granule again";
  EXPECT_TRUE(fronts.near_newest({16, 0}));
}

TEST(FrontsTest, APieceThatWasNotWrittenToItsEndTakesTheFrontBack) {
  Fronts fronts;
  fronts.advance({7, 0});
  fronts.advance({8, 3});
  fronts.step_back({8, 3}, 11);
  EXPECT_TRUE(fronts.near_newest({10, 0}));
  EXPECT_TRUE(fronts.near_newest({11, 0}));
  EXPECT_FALSE(fronts.near_newest({15, 0}));
  fronts.step_back({8, 3}, 13);
  EXPECT_FALSE(fronts.near_newest({13, 0})) << "no front is at its end any more";
  EXPECT_FALSE(fronts.advance_if_expected({16, 0}));
  EXPECT_TRUE(fronts.advance_if_expected({11, 0}));
}

TEST(FrontsTest, TwoFrontsThatMeetAreOne) {
  Fronts fronts;
  fronts.advance({10, 0});
  fronts.advance({8, 3});
  fronts.step_back({8, 3}, 11);
  EXPECT_TRUE(fronts.advance_if_expected({11, 0}));
  EXPECT_FALSE(fronts.advance_if_expected({11, 0}));
}

TEST(FrontsTest, OnlyTheNewestFrontsAreNear) {
  Fronts fronts;
  for (std::uint32_t offset : {10u, 20u, 30u}) fronts.advance({offset, 0});
  EXPECT_FALSE(fronts.near_newest({10, 1}));
  EXPECT_TRUE(fronts.near_newest({20, 1}));
  EXPECT_TRUE(fronts.near_newest({30, 1}));
}

// The promise: at most 1.25 times what was written, two rows and 64 MiB. K and V
// of 24 pools advance together; the worst moment is right after a row was begun.
TEST(FrontsTest, ABurstStaysWithinThePromiseAtEveryMoment) {
  constexpr std::size_t kPools = 24;
  constexpr std::uint64_t kRow = kPools * kGranuleBytes;
  constexpr std::uint32_t kV = 4096;
  Fronts fronts;
  std::uint64_t resident = 0;
  std::uint32_t written = 0;  // granules of K, and as many of V
  std::uint32_t present = 0, rows_ahead = 0, faults = 0;
  const auto holding = [&] { return GroupHolding{resident, kPools}; };
  while (written < 2048) {
    // The guard asks for K and V at `written`.
    for (const std::uint32_t half : {0u, kV}) {
      const std::uint32_t at = half + written;
      if (written < present) {
        fronts.advance_if_expected({at, 0});
        continue;
      }
      const std::uint8_t order =
          written == 0 ? std::uint8_t{0} : fronts.order_for(at, kLimits, holding());
      ++faults;
      // Both halves are taken alike here: the larger order of the two.
      fronts.advance({at, order});
      resident += order_granules(order) * kRow;
      if (half != 0) present = written + order_granules(order);
    }
    while (const auto piece = fronts.ahead(kLimits, holding())) {
      resident += order_granules(piece->order) * kRow;
      if (piece->offset >= kV && piece->offset + order_granules(piece->order) > kV + present) {
        ++rows_ahead;
      }
      fronts.ahead_done(piece->offset);
      if (piece->offset >= kV) break;
    }
    const std::uint64_t bound =
        static_cast<std::uint64_t>(1.25 * static_cast<double>(2 * written * kRow)) + 2 * kRow +
        64 * kMiB;
    ASSERT_LE(resident, bound) << "at granule " << written;
    written = present;
    if (rows_ahead != 0) break;  // from here on the mechanism's own test goes on
  }
  EXPECT_GE(rows_ahead, 1u) << "nothing was ever made ahead";
  EXPECT_LE(written, 8u) << "late";
}

}  // namespace
}  // namespace kvshim::vmm
