// When readers are asked, and what their answers cover.
#include "vmm/read_marks.h"

#include <gtest/gtest.h>

namespace kvshim::vmm::testing {
namespace {

constexpr std::uint64_t kPeriod = 10;

class ReadMarksTest : public ::testing::Test {
 protected:
  void answer() { channel_.answered = channel_.asked; }
  MarkChannel channel_{};
  ReadMarks marks_{true, &channel_};
};

TEST_F(ReadMarksTest, WithoutColdRowsNobodyIsAsked) {
  ReadMarks off(false, &channel_);
  off.pause_begins(1);
  off.work_goes_on(100, 1);
  EXPECT_EQ(off.asked(), 0u);
  EXPECT_EQ(channel_.asked, 0u);
}

TEST_F(ReadMarksTest, WhoComesAfterAPauseIsAsked) {
  EXPECT_EQ(marks_.asked(), 0u);
  marks_.pause_begins(5);
  EXPECT_NE(marks_.asked(), 0u);
  EXPECT_EQ(channel_.asked, marks_.asked()) << "graphs as well";
  answer();
  const std::uint32_t before = marks_.asked();
  marks_.pause_begins(6);
  EXPECT_GT(marks_.asked(), before) << "and again after the next one";
  EXPECT_EQ(marks_.answers(), 1u);
}

TEST_F(ReadMarksTest, ReadersOfTheSameStepMayAnswerUntilTheNextTick) {
  marks_.pause_begins(5);
  marks_.work_goes_on(6, kPeriod);
  EXPECT_NE(marks_.asked(), 0u) << "nobody answered";
  answer();
  marks_.work_goes_on(7, kPeriod);
  EXPECT_NE(marks_.asked(), 0u);
  marks_.work_goes_on(8, kPeriod);
  EXPECT_EQ(marks_.asked(), 0u);
  EXPECT_EQ(channel_.asked, 0u);
  EXPECT_EQ(marks_.answers(), 1u);
}

TEST_F(ReadMarksTest, WorkThatGoesOnIsAskedNowAndThen) {
  unsigned asked = 0;
  for (std::uint64_t tick = 1; tick <= 100; ++tick) {
    const std::uint32_t before = marks_.asked();
    marks_.work_goes_on(tick, kPeriod);
    if (marks_.asked() != 0 && marks_.asked() != before) ++asked;
    answer();
  }
  EXPECT_EQ(asked, 10u);
}

TEST_F(ReadMarksTest, OnlyAnswersTellThatAllIsCovered) {
  EXPECT_FALSE(marks_.cover_all(0, 0)) << "nobody ever answered";
  marks_.pause_begins(5);
  EXPECT_FALSE(marks_.cover_all(0, 0));
  answer();
  marks_.pause_begins(8);
  EXPECT_TRUE(marks_.cover_all(0, 7)) << "nothing came since it was asked again";
  EXPECT_FALSE(marks_.cover_all(0, 12)) << "something did, and it has not answered";
  answer();
  EXPECT_TRUE(marks_.cover_all(0, 12));
}

TEST_F(ReadMarksTest, AReadThatNobodySeesCountsForItsTime) {
  marks_.pause_begins(5);
  answer();
  marks_.pause_begins(8);
  marks_.reads_unseen(20, false);
  EXPECT_FALSE(marks_.cover_all(19, 8));
  EXPECT_TRUE(marks_.cover_all(20, 8));
  marks_.reads_unseen(20, true);
  EXPECT_FALSE(marks_.cover_all(1000, 8)) << "a graph may be launched at any time";
}

TEST_F(ReadMarksTest, MarksInGraphsWhoseNodesChangeAreNotAskedAgain) {
  marks_.nodes_change();
  marks_.pause_begins(5);
  EXPECT_NE(channel_.asked, 0u) << "there was none";
  answer();
  marks_.captured();
  marks_.nodes_change();
  EXPECT_EQ(channel_.asked, 0u);
  marks_.pause_begins(8);
  EXPECT_EQ(channel_.asked, 0u);
  EXPECT_NE(marks_.asked(), 0u) << "launches outside graphs are";
  EXPECT_FALSE(marks_.cover_all(0, 0));
}

}  // namespace
}  // namespace kvshim::vmm::testing
