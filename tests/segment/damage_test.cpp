// What becomes of a living owner when its file is spoilt under it.
#include <gtest/gtest.h>

#include "segment/segment_file.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"
#include "tests/segment/mapped_file.h"

namespace kvshim::segment {
namespace {

class DamageTest : public SegmentTest {
 protected:
  void SetUp() override {
    SegmentTest::SetUp();
    Control initial;
    initial.limit = 31;
    one_ = join(initial);
    two_ = join();
    Figures figures;
    figures.resident = 32;
    one_->publish(figures, {});
    one_->post_need(33, NeedKind::kFault);
    const GpuSnapshot gpu = snapshot();
    ControlChange change;
    change.reserve = 34;  // set by a tool: must outlive the damage too
    ASSERT_EQ(set_control(gpu, gpu.records[0], change), "");
    one_->tick();
  }
  /// After both ticked: both there again, in one new file, with what they had.
  void expect_recovered() {
    const Tick said = one_->tick();
    EXPECT_EQ(said.news.size(), 1u) << "it is said that it was joined anew";
    two_->tick();
    EXPECT_EQ(one_->neighbours(), 1u);
    EXPECT_EQ(two_->neighbours(), 1u);
    ASSERT_EQ(two_->needs().size(), 1u);
    EXPECT_EQ(two_->needs()[0].need.bytes, 33u);
    EXPECT_EQ(one_->control().limit, 31u);
    EXPECT_EQ(one_->control().reserve, 34u);
    const GpuSnapshot gpu = snapshot();
    EXPECT_EQ(gpu.error, "");
    ASSERT_EQ(gpu.records.size(), 2u);
    bool found = false;
    for (const RecordSnapshot& record : gpu.records) {
      EXPECT_TRUE(record.live);
      if (record.claim != one_->claim()) continue;
      found = true;
      EXPECT_EQ(record.figures.resident, 32u);
    }
    EXPECT_TRUE(found);
    EXPECT_TRUE(one_->tick().news.empty());
    EXPECT_TRUE(two_->tick().news.empty());
    ring(gpu, gpu.records[0]);
    ring(gpu, gpu.records[1]);
    EXPECT_TRUE(one_->wait(std::chrono::milliseconds(5000)));
    EXPECT_TRUE(two_->wait(std::chrono::milliseconds(5000)));
  }

  std::unique_ptr<Owner> one_, two_;
};

TEST_F(DamageTest, ARemovedFileIsMadeAgainAndAllMeetThere) {
  unlink(path().c_str());
  expect_recovered();
}

TEST_F(DamageTest, AReplacedFileIsJoined) {
  unlink(path().c_str());
  join().reset();
  expect_recovered();
}

TEST_F(DamageTest, ATruncatedFileIsNotTouchedAndMadeAgain) {
  ASSERT_EQ(truncate(path().c_str(), 0), 0);
  // SIGBUS would end this program.
  one_->publish({}, {});
  Figures figures;
  figures.resident = 32;
  one_->publish(figures, {});
  one_->post_need(33, NeedKind::kFault);
  EXPECT_EQ(one_->control().limit, 31u);
  EXPECT_TRUE(one_->group_controls().empty());
  EXPECT_TRUE(two_->needs().empty());
  EXPECT_TRUE(two_->states().empty());
  EXPECT_EQ(two_->neighbours(), 0u);
  EXPECT_EQ(one_->answers().count, 0u);
  EXPECT_FALSE(two_->answer({}, 1));
  one_->wake();
  EXPECT_FALSE(two_->wait(std::chrono::milliseconds(30)));
  expect_recovered();
}

TEST_F(DamageTest, ATruncationWakesAWaiterOnceItIsRepaired) {
  two_->wait(std::chrono::milliseconds(0));
  std::thread waiting([&] { EXPECT_TRUE(two_->wait(std::chrono::seconds(10))); });
  ASSERT_EQ(truncate(path().c_str(), 0), 0);
  one_->tick();
  two_->tick();
  one_->post_need(1, NeedKind::kFault);  // rings
  waiting.join();
}

TEST_F(DamageTest, AfterTheTickATruncatedFilesMemoryIsHarmless) {
  const std::string away = folder_ + "-away";
  ASSERT_EQ(truncate(path().c_str(), 4096), 0);
  ASSERT_EQ(rename(folder_.c_str(), away.c_str()), 0);  // nothing can be made
  const Tick said = one_->tick();
  ASSERT_EQ(said.problems.size(), 1u);
  EXPECT_FALSE(one_->attached());
  one_->publish({}, {});
  one_->control_generation();
  one_->group_generation();
  EXPECT_EQ(one_->control().reserve, 34u) << "what held before holds on";
  EXPECT_TRUE(one_->needs().empty());
  EXPECT_EQ(one_->answers().count, 0u);
  one_->wait(std::chrono::milliseconds(1));
  EXPECT_TRUE(one_->tick().problems.empty()) << "said once";
  ASSERT_EQ(rename(away.c_str(), folder_.c_str()), 0);
  EXPECT_TRUE(eventually(
      [&] {
        one_->tick();
        return one_->attached();
      },
      std::chrono::seconds(15)))
      << "tried again after a while";
  two_->tick();
  EXPECT_EQ(one_->neighbours(), 1u);
}

TEST_F(DamageTest, AnOverwrittenHeaderIsNoticed) {
  MappedFile(path()).fill(0, 12, 0x4141414141414141);
  expect_recovered();
}

TEST_F(DamageTest, AnOverwrittenFileIsNoticed) {
  MappedFile(path()).fill(0, sizeof(Segment) / 8, UINT64_MAX);
  expect_recovered();
}

TEST_F(DamageTest, ARecordThatWasTakenAwayIsTakenAnew) {
  MappedFile(path())->records[one_->index()].record.claim.store(12345);
  expect_recovered();
}

TEST_F(DamageTest, RubbishInEveryRecordBreaksNoReader) {
  {
    MappedFile file(path());
    const std::size_t first = offsetof(Segment, groups) / 8;
    for (std::size_t i = first; i < sizeof(Segment) / 8; ++i) {
      file.word(i).store(0x9e3779b97f4a7c15u * (i + 1) & ~1u);
    }
  }
  const GpuSnapshot gpu = snapshot();
  EXPECT_EQ(gpu.records.size(), kRecords);
  for (const RecordSnapshot& record : gpu.records) {
    EXPECT_LE(record.need.kind, NeedKind::kPlain);
    EXPECT_LE(std::abs(record.control.priority), kMostPriority);
    EXPECT_LT(record.identity.command_line.str().size(), sizeof(record.identity.command_line));
  }
  // Those who live in it: no crash, and the next ticks put it right.
  one_->needs();
  one_->group_controls();
  two_->answers();
  EXPECT_TRUE(eventually([&] {
    one_->tick();
    two_->tick();
    return snapshot().records.size() == 2;
  })) << "records that nobody holds were dead ones";
  EXPECT_EQ(one_->neighbours(), 1u);
  EXPECT_EQ(one_->control().reserve, 34u);
  ASSERT_EQ(two_->needs().size(), 1u);
  EXPECT_EQ(two_->needs()[0].need.bytes, 33u);
}

}  // namespace
}  // namespace kvshim::segment
