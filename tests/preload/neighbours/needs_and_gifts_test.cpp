// What one process needs and another gives, through a segment of their own.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

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

  // Long idle, with enough to give.
  std::uint64_t asked_of_giver(std::uint64_t gpu_free) {
    const vmm::Giver us{gpu_free, kFloor, 64 * kGiB, 60'000};
    return gifts_.asked_of(*giver_, us, 0);
  }
  /// A need that is met, as often as it takes for a sequence to be quick.
  void lack_in_quick_succession(int times) {
    for (int i = 0; i < times; ++i) {
      needs_.ask(*needy_, Lack::kFault, kMiB);
      needs_.ended(*needy_, Lack::kFault, true);
    }
  }

  static constexpr std::uint64_t kFloor = 512 * kMiB, kGiB = 1024 * kMiB;
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

// Somebody asks while a scan or a copy for another need is under way.
TEST_F(NeedsAndGifts, WhoComesInTheMiddleOfGivingIsToldOnce) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  for (int i = 0; i < 100; ++i) gifts_.goes_on(*giver_);
  EXPECT_EQ(Needs::answers(*needy_, 1).bytes, 1u);
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

// What is free is told late: it says the same while memory that was given is on its way.
TEST_F(NeedsAndGifts, NoNeedIsGivenForTwiceHoweverLateTheFreeFigureIs) {
  needs_.ask(*needy_, Lack::kFault, kGiB);
  const std::uint64_t first = asked_of_giver(kFloor);
  EXPECT_EQ(first, kGiB);
  gifts_.gave(*giver_, 768 * kMiB);
  EXPECT_EQ(asked_of_giver(kFloor), 256 * kMiB);
  gifts_.gave(*giver_, 256 * kMiB);
  EXPECT_EQ(asked_of_giver(kFloor), 0u);
  needs_.ended(*needy_, Lack::kFault, true);
  needs_.ask(*needy_, Lack::kFault, kGiB);
  EXPECT_GT(asked_of_giver(kFloor), 0u) << "the next one";
}

TEST_F(NeedsAndGifts, TheFloorIsGivenOnceToo) {
  needs_.ask(*needy_, Lack::kFault, kGiB);
  EXPECT_EQ(asked_of_giver(0), kGiB + kFloor);
  gifts_.gave(*giver_, kGiB + kFloor);
  EXPECT_EQ(asked_of_giver(0), 0u);
}

TEST_F(NeedsAndGifts, WhatAnotherGaveForItIsNotGivenAgain) {
  const auto other = join();
  ASSERT_NE(other, nullptr);
  Gifts others;
  needs_.ask(*needy_, Lack::kFault, kGiB);
  EXPECT_EQ(asked_of_giver(kFloor), kGiB);
  others.gave(*other, 512 * kMiB);
  EXPECT_EQ(asked_of_giver(kFloor), 512 * kMiB);
}

TEST_F(NeedsAndGifts, WhatIsGivenInPiecesReachesTheNextNeedWhenTheFirstIsMet) {
  const auto other = join();
  ASSERT_NE(other, nullptr);
  needs_.ask(*needy_, Lack::kFault, 256 * kMiB);
  Needs others;
  others.ask(*other, Lack::kFault, 256 * kMiB);
  for (int i = 0; i < 40; ++i) gifts_.gave(*giver_, 8 * kMiB);
  EXPECT_EQ(Needs::answers(*needy_, 2).bytes, 256 * kMiB);
  EXPECT_EQ(Needs::answers(*other, 2).bytes, 64 * kMiB);
}

TEST_F(NeedsAndGifts, AnAllocationThatStandsIsGivenForUntilItIsThere) {
  needs_.allocation_begins(*needy_, 100 * kMiB);
  gifts_.gave(*giver_, asked_of_giver(0));
  EXPECT_GT(asked_of_giver(0), 0u);
}

// Others may have taken what was given for it.
TEST_F(NeedsAndGifts, ANeedThatIsNotMetAsksAgainAndKeepsItsAge) {
  needs_.ask(*needy_, Lack::kFault, kGiB);
  gifts_.gave(*giver_, asked_of_giver(kFloor));
  const segment::NeighbourNeed before = giver_->needs().at(0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (asked_of_giver(kFloor) == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    needs_.ask(*needy_, Lack::kFault, kGiB);
  }
  EXPECT_EQ(asked_of_giver(kFloor), kGiB);
  const segment::NeighbourNeed after = giver_->needs().at(0);
  EXPECT_NE(after.need.serial, before.need.serial);
  EXPECT_EQ(after.need.posted_ns, before.need.posted_ns);
}

TEST_F(NeedsAndGifts, WhoWasServedWaitsBehindTheOthers) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  const std::uint64_t before = giver_->needs().at(0).need.posted_ns;
  needs_.ended(*needy_, Lack::kFault, true);
  needs_.ask(*needy_, Lack::kFault, kMiB);
  EXPECT_GT(giver_->needs().at(0).need.posted_ns, before);
}

TEST_F(NeedsAndGifts, ALoneNeedIsNotAskedForAhead) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  needs_.ended(*needy_, Lack::kFault, true);
  EXPECT_EQ(needs_.wanted_ahead(), 0u);
  EXPECT_LE(asked_for(), 256 * kMiB);
}

TEST_F(NeedsAndGifts, AQuickSequenceIsAskedForAheadWithinBounds) {
  lack_in_quick_succession(8);
  if (needs_.wanted_ahead() == 0) GTEST_SKIP() << "this machine is too busy to be quick";
  EXPECT_LE(needs_.wanted_ahead(), kGiB);
  EXPECT_LE(asked_for(), 2 * kGiB + kMiB);
  EXPECT_GT(asked_for(), 256 * kMiB);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (needs_.wanted_ahead() != 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(needs_.wanted_ahead(), 0u) << "it is over";
}

TEST_F(NeedsAndGifts, WhatIsAskedForAheadIsANeedOfItsOwn) {
  lack_in_quick_succession(3);
  const std::uint64_t before = giver_->needs().at(0).need.serial;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (giver_->needs().at(0).need.serial == before &&
         std::chrono::steady_clock::now() < deadline) {
    needs_.ask_ahead(*needy_, kMiB);
  }
  EXPECT_NE(giver_->needs().at(0).need.serial, before);
  EXPECT_GT(asked_of_giver(kFloor), kMiB);
  EXPECT_TRUE(needs_.ask(*needy_, Lack::kFault, kMiB)) << "nothing was in vain";
}

TEST_F(NeedsAndGifts, NothingIsAskedForAheadWhileOneWaits) {
  needs_.ask(*needy_, Lack::kFault, kMiB);
  const std::uint64_t before = giver_->needs().at(0).need.serial;
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  needs_.ask_ahead(*needy_, kMiB);
  EXPECT_EQ(giver_->needs().at(0).need.serial, before);
}

}  // namespace
}  // namespace kvshim::preload
