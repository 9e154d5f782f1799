// Moves beside work: what is read while it is parked comes back in two questions of guards, what
// is not used goes likewise.
#include <gtest/gtest.h>

#include "tests/vmm/moves_fixture.h"

namespace kvshim::vmm::testing {
namespace {

TEST_F(MovesTest, WhatIsReadComesBackInTwoQuestions) {
  read({1, 2});
  ASSERT_EQ(begin(), 4u) << "both layers";
  ask();
  EXPECT_EQ(copy(), 0u) << "its bits are not clear yet";
  bench_.memory->move_bits_cleared();
  EXPECT_EQ(copy(), 0u) << "work from before may be writing it";
  EXPECT_TRUE(bench_.memory->moves_need_a_question());
  ask();
  EXPECT_EQ(resident(), 0u);
  EXPECT_EQ(copy(), 4u);
  EXPECT_EQ(resident(), 0u) << "somebody may be reading it";
  EXPECT_TRUE(bench_.memory->moves_need_a_question());
  ask();
  EXPECT_EQ(resident(), 4 * kGranuleBytes);
  EXPECT_EQ(prefetched(), 4 * kGranuleBytes);
  EXPECT_FALSE(bench_.memory->moves_need_a_question());
  expect_contents();
  end();
  EXPECT_EQ(begin(), 0u);
}

TEST_F(MovesTest, WhileSomeIsCopiedTheNextIsProvenAndTheLastIsSwapped) {
  const auto choose = [&](std::uint32_t row) {
    read({row});
    EXPECT_EQ(begin(), 2u) << row;
    bench_.memory->move_bits_cleared();
  };
  choose(0);
  ask();
  choose(1);
  EXPECT_EQ(copy(), 2u);
  ask();
  EXPECT_EQ(resident(), 2 * kGranuleBytes) << "row 0";
  choose(2);
  const std::vector<AbiCopy> copies = bench_.memory->move_copies();
  ASSERT_EQ(copies.size(), 2u) << "of row 1 alone: row 2 is not proven yet";
  bench_.copy(copies[0]);
  ask();
  EXPECT_EQ(resident(), 2 * kGranuleBytes) << "row 1 is being copied";
  bench_.copy(copies[1]);
  bench_.memory->moves_copied(true);
  EXPECT_EQ(copy(), 2u) << "row 2 was proven meanwhile";
  ask();
  EXPECT_EQ(resident(), 6 * kGranuleBytes);
  expect_contents();
}

TEST_F(MovesTest, TheCopyIsOfTheContentsAndComesHome) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->move_bits_cleared();
  ask();
  for (const AbiCopy& one : bench_.memory->move_copies()) {
    bench_.copy(one);
    reinterpret_cast<std::uint64_t*>(one.destination)[1] = 4711;  // told apart from the original
  }
  bench_.memory->moves_copied(true);
  ask();
  EXPECT_EQ(bench_.word(bench_.address(pool_, 2) + 8), 4711u);
  expect_contents();
}

TEST_F(MovesTest, OnlyWhatWasReadLatelyAndIsFree) {
  read({1});
  EXPECT_EQ(bring_home(kGiB, 0, kTick + 1), 0u) << "long ago";
  bench_.memory->pin(bench_.address(pool_, 1), kGranuleBytes);
  EXPECT_EQ(begin(), 1u) << "the sibling's";
  EXPECT_EQ(begin(), 0u) << "it is on its way";
  end(DeviceMemory::MoveEnd::kAll);
  EXPECT_EQ(begin(), 1u);
}

TEST_F(MovesTest, NoMoreThanThereIsRoomFor) {
  read({0, 2});  // no neighbours: two blocks in each layer
  EXPECT_EQ(bring_home(3 * kGranuleBytes), 3u);
  end(DeviceMemory::MoveEnd::kAll);
  EXPECT_EQ(bring_home(kGiB, 16 * kGiB), 0u) << "of the GPU";
  const PhysicalBytes held = bench_.memory->physical();
  bench_.memory->limits().limit.store(held.device + held.zero + 2 * kGranuleBytes);
  EXPECT_EQ(begin(), 2u) << "under the limit";
}

TEST_F(MovesTest, NeighbouringExtentsComeAsOne) {
  for (std::uint32_t g = 4; g < 16; ++g) bench_.served(pool_, g);
  std::vector<std::uint32_t> all;
  for (std::uint32_t g = 0; g < 16; ++g) {
    bench_.write(pool_, g, 100 + g);
    bench_.write(sibling_, g, 200 + g);
    all.push_back(g);
  }
  bench_.park(bench_.resident());
  bench_.served(pool_, kElsewhere);
  read(all);
  ASSERT_LT(begin(), 16u);
  bench_.memory->move_bits_cleared();
  ask();
  copy();
  ask();
  EXPECT_GT(bench_.extent_granules(pool_, 4), 1u);
  expect_contents();
  end();
}

// --- away ---------------------------------------------------------------------------------

TEST_F(AwayTest, WhatNobodyUsesGoesInTwoQuestions) {
  ASSERT_EQ(begin_away({2}), 2u);
  bench_.memory->move_bits_cleared();
  EXPECT_EQ(copy(), 0u) << "work from before may be writing it";
  ask();
  EXPECT_EQ(copy(), 2u);
  EXPECT_EQ(parked(), 0u) << "somebody may be reading it";
  ask();
  EXPECT_EQ(parked(), 2 * kGranuleBytes);
  EXPECT_EQ(sent_away(), 2 * kGranuleBytes);
  EXPECT_EQ(bench_.memory->parked_bytes().cold, 2 * kGranuleBytes) << "until it is used";
  expect_contents();
  EXPECT_TRUE(bench_.writable(pool_, 2)) << "in place";
  end();
}

TEST_F(AwayTest, WhatAGuardMayBeToldJustNowStays) {
  bench_.fault(pool_, 2);  // present: its guard is about to set its bits, and its sibling's
  EXPECT_EQ(begin_away({2}), 0u);
  ask();
  EXPECT_EQ(begin_away({2}), 2u);
}

TEST(AwayHostMemory, NoMoreGoesThanItHolds) {
  MemoryBench small{{.host_budget = 2 * kGranuleBytes, .read_ahead_max = kNoReadAhead}};
  const PoolRecord* const pool = small.pool(100 * kMiB);
  small.served(pool, 0, 3);
  small.served(pool, 9);
  EXPECT_EQ(small.memory->begin_to_send_away(small.resident(), kGiB).size(), 2u);
  small.memory->end_moves(DeviceMemory::MoveEnd::kToGpu);
  EXPECT_TRUE(small.memory->begin_to_send_away(small.resident(), kGiB).empty());
  small.memory->end_moves(DeviceMemory::MoveEnd::kAll);
  EXPECT_EQ(small.memory->begin_to_send_away(small.resident(), kGiB).size(), 2u);
}

TEST_F(AwayTest, UnusedIsWhatWasNeitherAskedForNorRead) {
  bench_.memory->set_tick(20);
  const auto unused = [&](std::uint64_t since) {
    std::vector<std::uint32_t> rows;
    for (const ExtentName& extent : bench_.memory->unused_since(since)) {
      if (extent.pool == pool_->id) rows.push_back(extent.offset);
    }
    return rows;
  };
  const std::vector<std::uint32_t> all = unused(10);
  ASSERT_FALSE(all.empty());
  read({all[0]});
  EXPECT_EQ(unused(10), all);
  EXPECT_FALSE(unused(kTick).size() == all.size()) << "it was read at that tick";
  bench_.fault(pool_, all[0]);
  EXPECT_LT(unused(10).size(), all.size());
}

}  // namespace
}  // namespace kvshim::vmm::testing
