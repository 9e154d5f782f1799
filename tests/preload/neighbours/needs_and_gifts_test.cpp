// What one process needs and another gives, through a segment of their own.
#include <gtest/gtest.h>

#include "preload/answer_words.h"
#include "preload/gifts.h"
#include "preload/needs.h"
#include "tests/segment/folder.h"

namespace kvshim::preload {
namespace {

using vmm::Lack;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class NeedsAndGifts : public segment::SegmentTest {
 protected:
  void SetUp() override {
    SegmentTest::SetUp();
    needy_ = join();
    giver_ = join();
    ASSERT_TRUE(needy_ != nullptr && giver_ != nullptr);
  }
  std::uint64_t asked_for() const {
    std::uint64_t bytes = 0;
    for (const segment::NeighbourNeed& need : giver_->needs()) bytes += need.need.bytes;
    return bytes;
  }

  std::unique_ptr<segment::Owner> needy_, giver_;
  Needs needs_;
  Gifts gifts_;
};

TEST_F(NeedsAndGifts, WhatIsFreedIsToldInWholeGranules) {
  needs_.allocation_begins(*needy_, 100 * kMiB);
  gifts_.begins(*giver_);
  gifts_.gave(*giver_, 61 * kMiB);
  const vmm::Pressure::Answers said = Needs::answers(*needy_, 1);
  EXPECT_EQ(said.bytes, 60 * kMiB + 1);
  EXPECT_FALSE(said.refused_by_all);
}

TEST_F(NeedsAndGifts, ARefusalCountsOnceForEachNeed) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  gifts_.gave(*giver_, 0);
  gifts_.gave(*giver_, 0);
  EXPECT_TRUE(Needs::answers(*needy_, 1).refused_by_all);
  EXPECT_FALSE(Needs::answers(*needy_, 2).refused_by_all) << "another one has said nothing yet";
}

// A need can stand for long, and giving begins anew in every quiet moment.
TEST_F(NeedsAndGifts, BeginningToGiveAnyNumberOfTimesIsNoRefusal) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  for (int i = 0; i < 5000; ++i) gifts_.begins(*giver_);
  EXPECT_FALSE(Needs::answers(*needy_, 1).refused_by_all);
  EXPECT_GT(Needs::answers(*needy_, 1).bytes, 0u);
  gifts_.gave(*giver_, 0);
  EXPECT_TRUE(Needs::answers(*needy_, 1).refused_by_all);
}

TEST_F(NeedsAndGifts, AllNeighboursTogetherMayBeginAsOftenAsOneMay) {
  const std::uint64_t most = AnswerWords::kMostBegun * (segment::kRecords - 1);
  const AnswerWords said(most * AnswerWords::kBegun);
  EXPECT_EQ(said.begun, most);
  EXPECT_EQ(said.refusals, 0u);
  EXPECT_GE(AnswerWords::kMostBegun, 16u);
}

TEST_F(NeedsAndGifts, ANewNeedIsAnsweredAnew) {
  needs_.allocation_begins(*needy_, 100 * kMiB);
  for (int i = 0; i < 100; ++i) gifts_.begins(*giver_);
  gifts_.gave(*giver_, 0);
  needs_.allocation_begins(*needy_, 100 * kMiB);
  EXPECT_EQ(Needs::answers(*needy_, 1).bytes, 0u);
  gifts_.begins(*giver_);
  EXPECT_EQ(Needs::answers(*needy_, 1).bytes, 1u);
  EXPECT_FALSE(Needs::answers(*needy_, 1).refused_by_all);
}

TEST_F(NeedsAndGifts, SeveralAllocationsAreAskedForTogether) {
  needs_.allocation_begins(*needy_, 100 * kMiB);
  needs_.allocation_begins(*needy_, 300 * kMiB);
  EXPECT_EQ(asked_for(), 400 * kMiB);
  EXPECT_EQ(needs_.of_allocations(), 400 * kMiB);
}

TEST_F(NeedsAndGifts, TheEndOfOneAllocationIsNotTheOthers) {
  needs_.allocation_begins(*needy_, 100 * kMiB);
  needs_.allocation_begins(*needy_, 300 * kMiB);
  needs_.allocation_ends(*needy_, 100 * kMiB);
  EXPECT_GE(asked_for(), 300 * kMiB);
  needs_.allocation_ends(*needy_, 300 * kMiB);
  EXPECT_EQ(asked_for(), 0u);
}

TEST_F(NeedsAndGifts, AWaitInVainIsNotRepeatedAtOnce) {
  EXPECT_TRUE(needs_.ask(*needy_, Lack::kFault, kMiB));
  needs_.ended(*needy_, Lack::kFault, false);
  EXPECT_FALSE(needs_.ask(*needy_, Lack::kFault, kMiB));
  EXPECT_TRUE(needs_.ask(*needy_, Lack::kRestore, kMiB)) << "another kind was not waited for";
  needs_.ended(*needy_, Lack::kFault, true);
  EXPECT_TRUE(needs_.ask(*needy_, Lack::kFault, kMiB));
}

}  // namespace
}  // namespace kvshim::preload
