// Which questions bring a move further, and which make it void.
#include "vmm/move_list.h"

#include <gtest/gtest.h>

namespace kvshim::vmm::testing {
namespace {

constexpr std::uint32_t kNoneOpen = 0, kTicket = 7, kNextTicket = 8;

class MoveListTest : public ::testing::Test {
 protected:
  std::uint32_t begin(MoveTo to = MoveTo::kGpu) {
    PreparedPark block;
    block.extent = {.pool = 1, .offset = 0, .order = 2};
    return list_.begin(block, to, give_ups_);
  }
  void clear() { list_.bits_were_cleared(kNoneOpen); }
  void question(GuardPlace place = GuardPlace::kFirst, std::uint32_t ticket = kTicket) {
    list_.question_comes();
    list_.earlier_work_has_finished(place, ticket);
  }
  MoveStage stage(std::uint32_t number) { return list_.find(number)->stage; }
  bool is_void(std::uint32_t number) { return list_.find(number)->is_void; }

  std::uint64_t give_ups_ = 3;
  MoveList list_;
};

TEST_F(MoveListTest, NumbersFindTheirMoveAndZeroNone) {
  const std::uint32_t first = begin(), second = begin(MoveTo::kHost);
  EXPECT_NE(first, second);
  EXPECT_EQ(list_.find(second)->to, MoveTo::kHost);
  EXPECT_EQ(list_.find(0), nullptr);
  EXPECT_EQ(list_.find(second + 1), nullptr);
  EXPECT_EQ(list_.bytes(MoveTo::kGpu), 4 * kGranuleBytes);
}

TEST_F(MoveListTest, OnlyAQuestionBehindClearedBitsProvesThatContentsHoldStill) {
  const std::uint32_t move = begin();
  question();
  EXPECT_EQ(stage(move), MoveStage::kChosen) << "its bits may be set: work may write unasked";
  clear();
  EXPECT_EQ(stage(move), MoveStage::kBitsClear);
  question();
  EXPECT_EQ(stage(move), MoveStage::kUnwritten);
}

TEST_F(MoveListTest, AQuestionThatWasOpenThenProvesNothingButTheNextOneDoes) {
  const std::uint32_t move = begin();
  list_.bits_were_cleared(kTicket);
  question(GuardPlace::kFirst, kTicket);
  EXPECT_EQ(stage(move), MoveStage::kBitsClear);
  question(GuardPlace::kFirst, kNextTicket);
  EXPECT_EQ(stage(move), MoveStage::kUnwritten);
}

TEST_F(MoveListTest, AGuardBehindAnotherProvesNothing) {
  const std::uint32_t move = begin();
  clear();
  question(GuardPlace::kBehindAnother);
  EXPECT_EQ(stage(move), MoveStage::kBitsClear);
}

TEST_F(MoveListTest, ARefusedQuestionTakesBackWhatItHasProven) {
  const std::uint32_t early = begin();
  clear();
  question();
  const std::uint32_t late = begin(), copying = begin();
  clear();
  question(GuardPlace::kFirst, kNextTicket);
  list_.find(copying)->stage = MoveStage::kCopying;
  list_.question_was_refused();
  EXPECT_EQ(stage(early), MoveStage::kUnwritten) << "another question has";
  EXPECT_EQ(stage(late), MoveStage::kBitsClear);
  EXPECT_TRUE(is_void(copying)) << "the copy has begun: it may miss a write";
  EXPECT_FALSE(is_void(late));
}

TEST_F(MoveListTest, WhatIsVoidGoesNoFurther) {
  const std::uint32_t move = begin();
  clear();
  list_.make_void(move);
  question();
  EXPECT_EQ(stage(move), MoveStage::kBitsClear);
  EXPECT_FALSE(list_.any_needs_a_question());
}

TEST_F(MoveListTest, ACopyThatFailedIsVoid) {
  const std::uint32_t well = begin();
  list_.find(well)->stage = MoveStage::kCopying;
  EXPECT_TRUE(list_.is_being_copied(well));
  list_.copies_ended(true);
  const std::uint32_t badly = begin();
  list_.find(badly)->stage = MoveStage::kCopying;
  list_.copies_ended(false);
  EXPECT_EQ(stage(well), MoveStage::kCopied);
  EXPECT_FALSE(is_void(well));
  EXPECT_TRUE(is_void(badly));
}

TEST_F(MoveListTest, AGuardThatGaveUpSinceTheFirstBeganIsKnown) {
  begin();
  ++give_ups_;
  begin();
  EXPECT_FALSE(list_.none_gave_up(give_ups_));
  list_.moves().clear();
  begin();
  EXPECT_TRUE(list_.none_gave_up(give_ups_)) << "of those before nothing is left";
}

}  // namespace
}  // namespace kvshim::vmm::testing
