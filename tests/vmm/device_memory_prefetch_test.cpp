// Prefetch: what is read while it is parked comes back in two questions of guards, and whatever
// may have been written meanwhile doesn't.
#include <gtest/gtest.h>

#include <functional>

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

class PrefetchTest : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kElsewhere = 30;
  static constexpr std::uint64_t kTick = 7;
  void SetUp() override {
    pool_ = bench_.pool(100 * kMiB);
    sibling_ = bench_.pool(100 * kMiB);
    for (std::uint32_t g = 0; g < 4; ++g) {
      bench_.served(pool_, g);
      bench_.write(pool_, g, 100 + g);
      bench_.write(sibling_, g, 200 + g);
    }
    ASSERT_EQ(bench_.park_all(), 8u);
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
  std::size_t begin() { return bench_.memory->prefetch(kTick, kGiB, 0).size(); }
  /// A guard asks for something else.
  void ask() { EXPECT_EQ(bench_.fault(pool_, kElsewhere).kind, AnswerKind::kPresent); }
  std::size_t copy() {
    const std::vector<AbiCopy> copies = bench_.memory->prefetch_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    bench_.memory->prefetch_copied(true);
    return copies.size();
  }
  void end(DeviceMemory::PrefetchEnd which = DeviceMemory::PrefetchEnd::kVoid) {
    bench_.memory->end_prefetches(which);
    bench_.memory->release_retired();
    bench_.expect_sound();
  }
  std::uint64_t resident() const {
    return bench_.figures(pool_).resident + bench_.figures(sibling_).resident -
           2 * kGranuleBytes;  // elsewhere
  }
  std::uint64_t prefetched() const { return bench_.memory->statistics().prefetched_bytes.load(); }
  void expect_contents(std::uint64_t written = 0) {
    for (std::uint32_t g = 0; g < 4; ++g) {
      EXPECT_TRUE(bench_.holds(pool_, g, g == 2 && written != 0 ? written : 100 + g)) << g;
      EXPECT_TRUE(bench_.holds(sibling_, g, 200 + g)) << g;
    }
  }
  MemoryBench bench_{{.host_budget = kGiB, .read_ahead_max = kNoReadAhead}};
  const PoolRecord* pool_ = nullptr;
  const PoolRecord* sibling_ = nullptr;
};

TEST_F(PrefetchTest, WhatIsReadComesBackInTwoQuestions) {
  read({1, 2});
  ASSERT_EQ(begin(), 4u) << "both layers";
  ask();
  EXPECT_EQ(copy(), 0u) << "its bits are not clear yet";
  bench_.memory->prefetch_bits_cleared();
  EXPECT_EQ(copy(), 0u) << "work from before may be writing it";
  EXPECT_TRUE(bench_.memory->prefetch_needs_a_question());
  ask();
  EXPECT_EQ(resident(), 0u);
  EXPECT_EQ(copy(), 4u);
  EXPECT_EQ(resident(), 0u) << "somebody may be reading it";
  EXPECT_TRUE(bench_.memory->prefetch_needs_a_question());
  ask();
  EXPECT_EQ(resident(), 4 * kGranuleBytes);
  EXPECT_EQ(prefetched(), 4 * kGranuleBytes);
  EXPECT_FALSE(bench_.memory->prefetch_needs_a_question());
  expect_contents();
  end();
  EXPECT_EQ(begin(), 0u);
}

TEST_F(PrefetchTest, TheCopyIsOfTheContentsAndComesHome) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->prefetch_bits_cleared();
  ask();
  for (const AbiCopy& one : bench_.memory->prefetch_copies()) {
    bench_.copy(one);
    reinterpret_cast<std::uint64_t*>(one.destination)[1] = 4711;  // told apart from the original
  }
  bench_.memory->prefetch_copied(true);
  ask();
  EXPECT_EQ(bench_.word(bench_.address(pool_, 2) + 8), 4711u);
  expect_contents();
}

TEST_F(PrefetchTest, OnlyWhatWasReadLatelyAndIsFree) {
  read({1});
  EXPECT_TRUE(bench_.memory->prefetch(kTick + 1, kGiB, 0).empty()) << "long ago";
  bench_.memory->pin(bench_.address(pool_, 1), kGranuleBytes);
  EXPECT_EQ(begin(), 1u) << "the sibling's";
  EXPECT_EQ(begin(), 0u) << "it is on its way";
  end(DeviceMemory::PrefetchEnd::kAll);
  EXPECT_EQ(begin(), 1u);
}

TEST_F(PrefetchTest, NoMoreThanThereIsRoomFor) {
  read({0, 2});  // no neighbours: two blocks in each layer
  EXPECT_EQ(bench_.memory->prefetch(kTick, 3 * kGranuleBytes, 0).size(), 3u);
  end(DeviceMemory::PrefetchEnd::kAll);
  EXPECT_TRUE(bench_.memory->prefetch(kTick, kGiB, 16 * kGiB).empty()) << "of the GPU";
  const PhysicalBytes held = bench_.memory->physical();
  bench_.memory->limits().limit.store(held.device + held.zero + 2 * kGranuleBytes);
  EXPECT_EQ(begin(), 2u) << "under the limit";
}

TEST_F(PrefetchTest, NeighbouringExtentsComeAsOne) {
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
  bench_.memory->prefetch_bits_cleared();
  ask();
  copy();
  ask();
  EXPECT_GT(bench_.extent_granules(pool_, 4), 1u);
  expect_contents();
  end();
}

// --- what voids a copy ------------------------------------------------------------------

/// Brings the prefetch of row 2 to a stage, lets `what` happen, and goes through the rest.
class VoidPrefetch : public PrefetchTest, public ::testing::WithParamInterface<PrefetchStage> {
 protected:
  void reach_and(const std::function<void()>& what) {
    const PrefetchStage stage = GetParam();
    read({2});
    ASSERT_EQ(begin(), 2u);
    const auto at = [&](PrefetchStage here) {
      if (stage == here) what();
    };
    at(PrefetchStage::kChosen);
    bench_.memory->prefetch_bits_cleared();
    at(PrefetchStage::kBitsClear);
    ask();
    at(PrefetchStage::kUnwritten);
    const std::vector<AbiCopy> copies = bench_.memory->prefetch_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    at(PrefetchStage::kCopying);
    bench_.memory->prefetch_copied(true);
    at(PrefetchStage::kCopied);
    ask();
    ask();
  }
  void expect_not_from_a_copy() {
    // A copy that is done is swapped in by the very question that is about a write.
    EXPECT_LE(prefetched(), (GetParam() == PrefetchStage::kCopied ? 2 : 1) * kGranuleBytes);
    end(DeviceMemory::PrefetchEnd::kAll);
  }
};

std::string stage_name(const ::testing::TestParamInfo<PrefetchStage>& info) {
  constexpr const char* kNames[] = {"Chosen", "BitsClear", "Unwritten", "Copying", "Copied"};
  return kNames[static_cast<std::size_t>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(AtEachStage, VoidPrefetch,
                         ::testing::Values(PrefetchStage::kChosen, PrefetchStage::kBitsClear,
                                           PrefetchStage::kUnwritten, PrefetchStage::kCopying,
                                           PrefetchStage::kCopied),
                         stage_name);

// In place, or promoted by its own guard: what is written stays.
TEST_P(VoidPrefetch, AWriteIsNotLost) {
  reach_and([&] {
    bench_.served(pool_, 2);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  expect_not_from_a_copy();
}

TEST_P(VoidPrefetch, AnExactWriteIsNotLost) {
  reach_and([&] {
    bench_.served(pool_, 2, 1, false);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
}

TEST_P(VoidPrefetch, AFillWithoutAGuardIsNotLost) {
  reach_and([&] {
    bench_.memory->written_unasked(bench_.address(pool_, 2), kGranuleBytes);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
}

// Pinned pages may be written by work that asks nobody, also when the pin has gone again.
TEST_P(VoidPrefetch, APinIsNotForgotten) {
  reach_and([&] {
    bench_.memory->pin(bench_.address(pool_, 2), 1);
    bench_.write(pool_, 2, 999);
    bench_.memory->unpin(pool_->id, bench_.address(pool_, 2), 1);
  });
  expect_contents(999);
}

TEST_P(VoidPrefetch, WorkInNoOrderIsNotLost) {
  reach_and([&] {
    bench_.memory->comes_in_no_order(1);
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  EXPECT_EQ(prefetched(), 0u);
}

TEST_P(VoidPrefetch, AGuardThatGaveUpIsNotLost) {
  reach_and([&] {
    bench_.memory->guard_gives_up();
    bench_.write(pool_, 2, 999);
  });
  expect_contents(999);
  EXPECT_EQ(prefetched(), 0u);
}

TEST_P(VoidPrefetch, AReturnInAPauseIsNotOverwritten) {
  if (GetParam() == PrefetchStage::kCopying) GTEST_SKIP() << "the releasing thread's lock";
  reach_and([&] {
    bench_.bring_back(bench_.memory->blocks_to_return());
    bench_.write(pool_, 2, 999);
    bench_.park_all(9);
    bench_.served(pool_, kElsewhere);
  });
  expect_contents(999);
  EXPECT_EQ(prefetched(), 0u);
}

TEST_P(VoidPrefetch, WhatIsDroppedStaysDropped) {
  if (GetParam() == PrefetchStage::kCopying) GTEST_SKIP() << "the releasing thread's lock";
  reach_and([&] {
    bench_.memory->swap_to_absent(bench_.parked(), ProofOfAbsence::kDroppedByRule);
    bench_.memory->release_retired();
  });
  EXPECT_TRUE(bench_.is_zero(pool_, 2));
  EXPECT_EQ(prefetched(), 0u);
}

TEST_P(VoidPrefetch, APoolThatIsFreedTakesItsCopiesAlong) {
  CUresult freed = CUDA_SUCCESS;
  reach_and([&] { freed = bench_.memory->free(sibling_->base, std::chrono::milliseconds(0)); });
  if (GetParam() == PrefetchStage::kCopying) {
    EXPECT_EQ(freed, CUDA_ERROR_NOT_READY) << "its addresses are read";
  } else {
    EXPECT_EQ(freed, CUDA_SUCCESS);
    EXPECT_EQ(prefetched(), kGranuleBytes);
  }
  EXPECT_TRUE(bench_.holds(pool_, 2, 102));
}

TEST_F(PrefetchTest, WhatIsBeingCopiedStaysWhereItIs) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->prefetch_bits_cleared();
  ask();
  ASSERT_EQ(bench_.memory->prefetch_copies().size(), 2u);
  const FaultAnswer answer = bench_.fault(pool_, 2);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent) << "in place";
  EXPECT_TRUE(names(answer.runs, bench_.granule(pool_, 2)));
  EXPECT_EQ(bench_.figures(pool_).parked, 4 * kGranuleBytes);
  bench_.memory->end_prefetches(DeviceMemory::PrefetchEnd::kAll);
  bench_.memory->prefetch_copied(true);
  end();
  EXPECT_EQ(bench_.fault(pool_, 2).kind, AnswerKind::kCopyFirst) << "as always";
}

TEST_F(PrefetchTest, ACopyThatFailedIsVoid) {
  read({2});
  ASSERT_EQ(begin(), 2u);
  bench_.memory->prefetch_bits_cleared();
  ask();
  ASSERT_EQ(bench_.memory->prefetch_copies().size(), 2u);
  bench_.memory->prefetch_copied(false);
  ask();
  EXPECT_EQ(prefetched(), 0u);
  expect_contents();
  end();
}

TEST_F(PrefetchTest, WhatAGuardIsCopyingIsLeftToIt) {
  read({2});
  const FaultAnswer first = bench_.fault(pool_, 2);
  ASSERT_EQ(first.kind, AnswerKind::kCopyFirst);
  EXPECT_EQ(begin(), 0u);
  for (const AbiCopy& one : first.copies) bench_.copy(one);
  EXPECT_EQ(bench_.memory->copied().kind, AnswerKind::kPresent);
  expect_contents();
}

TEST_F(PrefetchTest, NothingBeginsWhileGuardsAreToldToGiveUp) {
  read({2});
  std::atomic_ref(bench_.memory->kernels().channel()->give_up).store(1);
  EXPECT_EQ(begin(), 0u);
  std::atomic_ref(bench_.memory->kernels().channel()->give_up).store(0);
  EXPECT_EQ(begin(), 2u);
}

}  // namespace
}  // namespace kvshim::vmm::testing
