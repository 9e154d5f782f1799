#include "vmm/pool.h"

#include <gtest/gtest.h>

#include "tests/vmm/random.h"

namespace kvshim::vmm {
namespace {

// The pieces lie in [offset, offset + count) of a pool at `base`: in order,
// without gap or overlap, aligned, and no two could be one.
void expect_good_cut(const std::vector<Piece>& pieces, GranuleIndex base, std::uint32_t offset,
                     std::uint32_t count) {
  std::uint32_t at = offset;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    ASSERT_EQ(piece.offset, at);
    ASSERT_LE(piece.order, kMaxOrder);
    ASSERT_EQ((base + piece.offset) % order_granules(piece.order), 0u);
    if (i != 0 && pieces[i - 1].order == piece.order && piece.order < kMaxOrder) {
      ASSERT_NE((base + pieces[i - 1].offset) % order_granules(piece.order + 1u), 0u)
          << "two buddies side by side";
    }
    at += order_granules(piece.order);
  }
  ASSERT_EQ(at, offset + count);
}

TEST(PieceTest, AnyRangeIsCutIntoAlignedPiecesWithoutGap) {
  testing::Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const GranuleIndex base = random() % 64 * order_granules(kMaxOrder);
    const std::uint32_t offset = random() % 300, count = random() % 200;
    expect_good_cut(cut_into_pieces(base, offset, count), base, offset, count);
  }
}

TEST(PieceTest, APoolOfWholeUnitsIsCutIntoTheLargestPieces) {
  EXPECT_EQ(cut_into_pieces(16, 0, 64).size(), 4u);
}

TEST(PieceTest, BuddiesAndThePieceTakenCoverTheWhole) {
  testing::Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const GranuleIndex base = (1 + random() % 64) * order_granules(kMaxOrder);
    const auto order = static_cast<std::uint8_t>(random() % kOrders);
    const Piece whole = aligned_piece(base, random() % 512, order);
    const auto smaller = static_cast<std::uint8_t>(random() % (order + 1u));
    const Piece taken =
        aligned_piece(base, whole.offset + random() % order_granules(order), smaller);
    ASSERT_GE(taken.offset, whole.offset);
    ASSERT_LE(taken.offset + order_granules(smaller), whole.offset + order_granules(order));
    std::vector<Piece> all = buddies_around(whole, taken, base);
    EXPECT_EQ(all.size(), static_cast<std::size_t>(order - smaller));
    all.push_back(taken);
    std::sort(all.begin(), all.end(),
              [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
    std::uint32_t at = whole.offset;
    for (const Piece& piece : all) {
      ASSERT_EQ(piece.offset, at);
      ASSERT_EQ((base + at) % order_granules(piece.order), 0u);
      at += order_granules(piece.order);
    }
    EXPECT_EQ(at, whole.offset + order_granules(order));
  }
}

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() {
    for (const Piece& piece : cut_into_pieces(16, 0, 40)) {
      pool_.extents.emplace(piece.offset, Extent{.order = piece.order});
    }
  }
  Pool pool_{1, 16, 40, 40 * kGranuleBytes};
};

TEST_F(PoolTest, ExtentAtFindsTheExtentThatHoldsAGranule) {
  EXPECT_EQ(pool_.extent_at(0)->first, 0u);
  EXPECT_EQ(pool_.extent_at(15)->first, 0u);
  EXPECT_EQ(pool_.extent_at(16)->first, 16u);
  EXPECT_EQ(pool_.extent_at(39)->first, 32u);
}

TEST_F(PoolTest, InvariantsHoldForAFreshPoolAndEachBreachIsTold) {
  EXPECT_EQ(pool_.broken_invariant(), "");
  pool_.extents.at(0).state = ExtentState::kResident;  // no handle
  EXPECT_NE(pool_.broken_invariant(), "");
  pool_.extents.at(0) = Extent{.order = 3};
  EXPECT_NE(pool_.broken_invariant(), "");  // gap
  pool_.extents.at(0) = Extent{.order = 4};
  pool_.extents.erase(32);
  EXPECT_NE(pool_.broken_invariant(), "");  // ends early
}

TEST_F(PoolTest, PinsCountPerGranule) {
  pool_.pin(3, 4);
  pool_.pin(5, 1);
  EXPECT_TRUE(pool_.pinned(0, 16));
  EXPECT_FALSE(pool_.pinned(7, 33));
  pool_.unpin(3, 4);
  EXPECT_TRUE(pool_.pinned(5, 1));
  EXPECT_FALSE(pool_.pinned(0, 5));
  pool_.unpin(5, 1);
  EXPECT_FALSE(pool_.pinned(0, 40));
}

TEST_F(PoolTest, APinCountThatReachedItsEndStaysForGood) {
  for (int i = 0; i < 70000; ++i) pool_.pin(0, 1);
  for (int i = 0; i < 70000; ++i) pool_.unpin(0, 1);
  EXPECT_TRUE(pool_.pinned(0, 1));
}

}  // namespace
}  // namespace kvshim::vmm
