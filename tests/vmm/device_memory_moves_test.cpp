// Moves beside work: what is read while it is parked comes back in two questions of guards, what
// is not used goes likewise, and whatever may have been written meanwhile stays where it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "tests/vmm/parked_rows.h"

namespace kvshim::vmm::testing {
namespace {

class MovesTest : public ParkedRowsTest {
 protected:
  static constexpr std::uint32_t kElsewhere = 30;
  static constexpr std::uint64_t kTick = 7;
  void SetUp() override {
    ParkedRowsTest::SetUp();
    bench_.served(pool_, kElsewhere);
  }
  /// Readers were seen to read these rows.
  void read(const std::vector<std::uint32_t>& rows) {
    std::vector<std::uint32_t> marks((bench_.arena->granules() + 31) / 32, 0);
    for (const std::uint32_t row : rows) {
      const GranuleIndex granule = bench_.granule(pool_, row);
      marks[granule / 32] |= 1u << granule % 32;
    }
    bench_.memory->note_reads(marks, kTick);
  }
  std::size_t begin() { return bring_home(kGiB); }
  std::size_t bring_home(std::uint64_t most, std::uint64_t headroom = 0,
                         std::uint64_t read_since = kTick) {
    const std::vector<ExtentName> read = bench_.memory->read_while_parked(read_since);
    return bench_.memory->begin_to_bring_home(read, most, headroom).size();
  }
  /// A guard asks for something else.
  void ask() { EXPECT_EQ(bench_.fault(pool_, kElsewhere).kind, AnswerKind::kPresent); }
  std::size_t copy() {
    const std::vector<AbiCopy> copies = bench_.memory->move_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    bench_.memory->moves_copied(true);
    return copies.size();
  }
  void end(DeviceMemory::MoveEnd which = DeviceMemory::MoveEnd::kVoid) {
    bench_.memory->end_moves(which);
    bench_.memory->release_retired();
    bench_.expect_sound();
  }
  std::uint64_t resident() const {
    return bench_.figures(pool_).resident + bench_.figures(sibling_).resident -
           2 * kGranuleBytes;  // elsewhere
  }
  std::uint64_t prefetched() const { return bench_.memory->statistics().prefetched_bytes.load(); }
};

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

class AwayTest : public MovesTest {
 protected:
  void SetUp() override {
    MovesTest::SetUp();
    bench_.bring_back(bench_.parked());
    ask();
  }
  std::size_t begin_away(const std::vector<std::uint32_t>& rows) {
    std::vector<ExtentName> blocks;
    for (const ExtentName& extent : bench_.resident()) {
      if (std::find(rows.begin(), rows.end(), extent.offset) != rows.end()) {
        blocks.push_back(extent);
      }
    }
    return bench_.memory->begin_to_send_away(blocks, kGiB).size();
  }
  std::uint64_t sent_away() const { return bench_.memory->statistics().moved_away_bytes.load(); }
  std::uint64_t parked() const {
    return bench_.figures(pool_).parked + bench_.figures(sibling_).parked;
  }
};

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

// --- what voids a copy ------------------------------------------------------------------

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
