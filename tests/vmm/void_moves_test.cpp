// What voids a move beside work: whatever may have been written meanwhile stays where it is.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>

#include "tests/vmm/moves_fixture.h"

namespace kvshim::vmm::testing {
namespace {

struct Moment {
  MoveTo to;
  MoveStage stage;
};

/// Brings the move of row 2 to a stage, lets `what` happen, and goes through the rest.
class VoidMove : public AwayTest, public ::testing::WithParamInterface<Moment> {
 protected:
  void SetUp() override {
    if (goes_home()) {
      MovesTest::SetUp();
    } else {
      AwayTest::SetUp();
    }
  }
  bool goes_home() const { return GetParam().to == MoveTo::kGpu; }
  bool copying() const { return GetParam().stage == MoveStage::kCopying; }
  std::uint64_t moved() const { return goes_home() ? prefetched() : sent_away(); }
  void reach_and(const std::function<void()>& what) {
    read({2});
    ASSERT_EQ(goes_home() ? begin() : begin_away({2}), 2u);
    const auto at = [&](MoveStage here) {
      if (GetParam().stage == here) what();
    };
    at(MoveStage::kChosen);
    bench_.memory->move_bits_cleared();
    at(MoveStage::kBitsClear);
    ask_again();
    at(MoveStage::kUnwritten);
    const std::vector<AbiCopy> copies = bench_.memory->move_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    at(MoveStage::kCopying);
    bench_.memory->moves_copied(true);
    at(MoveStage::kCopied);
    ask_again();
    ask_again();
    end(DeviceMemory::MoveEnd::kAll);
  }
  void ask_again() { EXPECT_EQ(bench_.served(pool_, kElsewhere).kind, AnswerKind::kPresent); }
};

std::string moment_name(const ::testing::TestParamInfo<Moment>& info) {
  constexpr const char* kNames[] = {"Chosen", "BitsClear", "Unwritten", "Copying", "Copied"};
  return std::string(info.param.to == MoveTo::kGpu ? "Home" : "Away") +
         kNames[static_cast<std::size_t>(info.param.stage)];
}

std::vector<Moment> moments() {
  std::vector<Moment> all;
  for (const MoveTo to : {MoveTo::kGpu, MoveTo::kHost}) {
    for (const MoveStage stage : {MoveStage::kChosen, MoveStage::kBitsClear, MoveStage::kUnwritten,
                                  MoveStage::kCopying, MoveStage::kCopied}) {
      all.push_back({to, stage});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(AtEachStage, VoidMove, ::testing::ValuesIn(moments()), moment_name);

// In place, or promoted by its own guard: what is written stays. A copy that is done is swapped
// in by the very question that is about a write.
TEST_P(VoidMove, AWriteIsNotLost) {
  reach_and([&] {
    bench_.served(pool_, 2);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  if (GetParam().stage != MoveStage::kCopied) {
    EXPECT_LE(moved(), kGranuleBytes);
  }
}

TEST_P(VoidMove, AnExactWriteIsNotLost) {
  reach_and([&] {
    bench_.served(pool_, 2, 1, false);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  if (GetParam().stage != MoveStage::kCopied) {
    EXPECT_LE(moved(), kGranuleBytes);
  }
}

TEST_P(VoidMove, AFillWithoutAGuardIsNotLost) {
  reach_and([&] {
    const AbiRun run{bench_.granule(pool_, 2), 1};
    bench_.memory->written_unasked(std::span(&run, 1));
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  EXPECT_LE(moved(), kGranuleBytes) << "the sibling's";
}

// Pinned pages may be written by work that asks nobody, also when the pin has gone again.
TEST_P(VoidMove, APinIsNotForgotten) {
  reach_and([&] {
    bench_.memory->pin(bench_.address(pool_, 2), 1);
    bench_.write(pool_, 2, 999);
    bench_.memory->unpin(pool_->id, bench_.address(pool_, 2), 1);
  });
  expect_contents(999);
  EXPECT_LE(moved(), kGranuleBytes) << "the sibling's";
}

TEST_P(VoidMove, WorkInNoOrderIsNotLost) {
  reach_and([&] {
    bench_.memory->comes_in_no_order(1);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  EXPECT_EQ(moved(), 0u);
}

// The work behind it writes although nobody heard it.
TEST_P(VoidMove, AGuardThatGaveUpIsNotLost) {
  reach_and([&] {
    bench_.memory->guard_gives_up();
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  EXPECT_EQ(moved(), 0u);
}

TEST_P(VoidMove, WhatMovesInAPauseIsNotOverwritten) {
  if (copying()) GTEST_SKIP() << "the releasing thread's lock";
  reach_and([&] {
    if (!goes_home()) bench_.park_all(9);
    bench_.bring_back(bench_.memory->blocks_to_return());
    bench_.write(pool_, 2, 999);
    if (goes_home()) bench_.park_all(9);
  });
  expect_contents(999);
  EXPECT_EQ(moved(), 0u);
}

TEST_P(VoidMove, WhatIsDroppedStaysDropped) {
  if (copying()) GTEST_SKIP() << "the releasing thread's lock";
  reach_and([&] {
    bench_.memory->swap_to_absent(goes_home() ? bench_.parked() : bench_.resident(),
                                  ProofOfAbsence::kDroppedByRule);
    bench_.memory->release_retired();
  });
  EXPECT_TRUE(bench_.is_zero(pool_, 2));
  EXPECT_EQ(moved(), 0u);
}

TEST_P(VoidMove, APoolThatIsFreedTakesItsCopiesAlong) {
  CUresult freed = CUDA_SUCCESS;
  reach_and([&] { freed = bench_.memory->free(sibling_->base, std::chrono::milliseconds(0)); });
  if (copying()) {
    EXPECT_EQ(freed, CUDA_ERROR_NOT_READY) << "its addresses are read";
  } else {
    EXPECT_EQ(freed, CUDA_SUCCESS);
    EXPECT_EQ(moved(), kGranuleBytes);
  }
  EXPECT_TRUE(bench_.holds(pool_, 2, 102));
}

TEST_F(MovesTest, WhatIsBeingCopiedStaysWhereItIs) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->move_bits_cleared();
  ask();
  ASSERT_EQ(bench_.memory->move_copies().size(), 2u);
  const FaultAnswer answer = bench_.fault(pool_, 2);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent) << "in place";
  EXPECT_TRUE(names(answer.runs, bench_.granule(pool_, 2)));
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  bench_.memory->end_moves(DeviceMemory::MoveEnd::kAll);
  bench_.memory->moves_copied(true);
  end();
  EXPECT_EQ(bench_.fault(pool_, 2).kind, AnswerKind::kCopyFirst) << "as always";
}

// Work with several guards may have passed the first one before the bits were clear.
TEST_F(MovesTest, AGuardBehindAnotherProvesNothingOfEarlierWork) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->move_bits_cleared();
  const AbiRun elsewhere{bench_.granule(pool_, kElsewhere), 1};
  const auto ask_behind = [&] {
    EXPECT_EQ(bench_.memory
                  ->fault(std::span(&elsewhere, 1), true, std::nullopt, GuardPlace::kBehindAnother)
                  .kind,
              AnswerKind::kPresent);
  };
  ask_behind();
  EXPECT_EQ(copy(), 0u);
  ask();
  EXPECT_EQ(copy(), 2u);
  ask_behind();
  EXPECT_EQ(resident(), 2 * kGranuleBytes) << "all that could have written it asks";
  expect_contents();
}

// Its guard doesn't look again: it may have found the bits of the block set.
TEST_F(MovesTest, AQuestionThatIsRefusedProvesNothing) {
  const PoolRecord* const freed = bench_.pool(100 * kMiB, "other");
  const AbiRun gone{bench_.granule(freed, 0), 1};
  ASSERT_EQ(bench_.memory->free(freed->base), CUDA_SUCCESS);
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->move_bits_cleared();
  EXPECT_EQ(bench_.memory->fault(std::span(&gone, 1), true).kind, AnswerKind::kFailed);
  EXPECT_EQ(copy(), 0u);
  ask();
  EXPECT_EQ(copy(), 2u) << "and does no harm";
  ask();
  EXPECT_EQ(resident(), 2 * kGranuleBytes);
  expect_contents();
}

// Its guard may have looked, and given up, before the bits were clear.
TEST_F(MovesTest, AQuestionThatWasOpenBeforeProvesNothing) {
  GuardChannel& channel = *bench_.memory->kernels().channel();
  read({2});
  ASSERT_EQ(begin(), 2u);
  std::atomic_ref(channel.request).store(1);
  bench_.memory->move_bits_cleared();
  ask();
  EXPECT_EQ(copy(), 0u);
  std::atomic_ref(channel.answer).store(1);
  std::atomic_ref(channel.request).store(2);
  ask();
  EXPECT_EQ(copy(), 2u);
  std::atomic_ref(channel.answer).store(2);
}

TEST_F(MovesTest, ACopyThatFailedIsVoid) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->move_bits_cleared();
  ask();
  ASSERT_EQ(bench_.memory->move_copies().size(), 2u);
  bench_.memory->moves_copied(false);
  ask();
  EXPECT_EQ(prefetched(), 0u);
  expect_contents();
  end();
}

TEST_F(MovesTest, WhatAGuardIsCopyingIsLeftToIt) {
  read({2});
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  EXPECT_EQ(begin(), 0u);
  for (const AbiCopy& one : first.copies) bench_.copy(one);
  EXPECT_EQ(bench_.memory->copied().kind, AnswerKind::kPresent);
  expect_contents();
}

TEST_F(MovesTest, NothingBeginsWhileGuardsAreToldToGiveUp) {
  read({2});
  std::atomic_ref(bench_.memory->kernels().channel()->give_up).store(1);
  EXPECT_EQ(begin(), 0u);
  std::atomic_ref(bench_.memory->kernels().channel()->give_up).store(0);
  EXPECT_EQ(begin(), 2u);
}

}  // namespace
}  // namespace kvshim::vmm::testing
