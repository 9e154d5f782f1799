#include <gtest/gtest.h>

#include "segment/file_lock.h"
#include "segment/segment_file.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

using SteeringTest = SegmentTest;
using std::chrono::milliseconds;

ControlChange limit_of(std::uint64_t bytes) {
  ControlChange change;
  change.limit = bytes;
  return change;
}

TEST_F(SteeringTest, AChangeArrivesRingsAndKeepsTheRest) {
  Control initial;
  initial.reserve = 5;
  auto owner = join(initial);
  owner->wait(milliseconds(0));
  const std::uint64_t before = owner->control_generation();
  const GpuSnapshot gpu = snapshot();
  std::uint64_t generation = 0;
  EXPECT_EQ(set_control(gpu, gpu.records[0], limit_of(1000), &generation), "");
  EXPECT_TRUE(owner->wait(milliseconds(5000)));
  EXPECT_NE(owner->control_generation(), before);
  std::uint64_t seen = 0;
  const Control control = owner->control(&seen);
  EXPECT_EQ(control.limit, 1000u);
  EXPECT_EQ(control.reserve, 5u);
  EXPECT_EQ(control.set_by, getpid());
  EXPECT_EQ(seen, generation);
}

TEST_F(SteeringTest, AToolSeesThatItsWordWasHeard) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  EXPECT_EQ(set_control(gpu, gpu.records[0], limit_of(1)), "");
  EXPECT_FALSE(snapshot().records[0].control_heard());
  Settings settings;
  owner->control(&settings.control_generation);
  owner->publish({}, settings);
  EXPECT_TRUE(snapshot().records[0].control_heard());
}

TEST_F(SteeringTest, ReleaseRequestsAddUp) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  ControlChange change;
  change.release_now = true;
  EXPECT_EQ(set_control(gpu, gpu.records[0], change), "");
  EXPECT_EQ(set_control(gpu, gpu.records[0], change), "");
  EXPECT_EQ(owner->control().release_requests, 2u);
}

TEST_F(SteeringTest, PrioritiesStayInRange) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  ControlChange change;
  change.priority = INT64_MIN;
  EXPECT_EQ(set_control(gpu, gpu.records[0], change), "");
  EXPECT_EQ(owner->control().priority, -kMostPriority);
}

TEST_F(SteeringTest, ASuccessorIsNotSteeredForItsPredecessor) {
  auto first = join();
  const GpuSnapshot gpu = snapshot();
  first.reset();
  auto second = join();
  ASSERT_EQ(second->index(), gpu.records[0].index);
  EXPECT_NE(set_control(gpu, gpu.records[0], limit_of(1)).find("gone"), std::string::npos);
  EXPECT_EQ(second->control().limit, 0u);
}

TEST_F(SteeringTest, ADeadProcessIsGone) {
  Child child([&] {
    auto owner = join();
    return pause();
  });
  ASSERT_TRUE(eventually([&] {
    const auto all = read_all(folder_);
    return all.size() == 1 && all[0].records.size() == 1;
  }));
  const GpuSnapshot gpu = snapshot();
  child.kill();
  EXPECT_NE(set_control(gpu, gpu.records[0], limit_of(1)).find("gone"), std::string::npos);
  EXPECT_NE(ring(gpu, gpu.records[0]).find("gone"), std::string::npos);
}

TEST_F(SteeringTest, AToolThatHoldsTheLockForeverIsReportedNotWaitedFor) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  const int file = open(path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(try_lock(file, control_lock(owner->index())));
  EXPECT_NE(set_control(gpu, gpu.records[0], limit_of(1)).find("doesn't go on"), std::string::npos);
  close(file);
  EXPECT_EQ(set_control(gpu, gpu.records[0], limit_of(1)), "");
}

TEST_F(SteeringTest, ACorruptControlIsIgnoredSaidAndRepaired) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  EXPECT_EQ(set_control(gpu, gpu.records[0], limit_of(77)), "");
  EXPECT_EQ(owner->control().limit, 77u);
  owner->tick();
  std::string why;
  const int file = open(path().c_str(), O_RDWR | O_CLOEXEC);
  Segment* segment = map_segment(path(), state_of(file).identity, nullptr, &why);
  ASSERT_NE(segment, nullptr) << why;
  auto* words = reinterpret_cast<Word*>(&segment->records[owner->index()].record.control);
  for (std::size_t i = 0; i < sizeof(Committed<Control>) / 8; ++i)
    words[i].store(0x4141414141414141);
  EXPECT_EQ(snapshot().records[0].missing, std::vector<std::string>{"control"});
  EXPECT_EQ(owner->control().limit, 77u) << "what held before holds on";
  const Tick said = owner->tick();
  ASSERT_EQ(said.problems.size(), 1u);
  EXPECT_NE(said.problems[0].find("corrupt"), std::string::npos);
  EXPECT_TRUE(owner->tick().problems.empty()) << "said once";
  EXPECT_EQ(snapshot().records[0].control.limit, 77u);
  close(file);
}

TEST_F(SteeringTest, AGroupIsMadeFoundAgainAndFreed) {
  Control member;
  member.group = "chat";
  auto in = join(member);
  auto out = join();
  in->wait(milliseconds(0));
  const std::uint64_t before = in->group_generation();
  EXPECT_EQ(set_group_control(snapshot(), "chat", limit_of(10)), "");
  EXPECT_EQ(set_group_control(snapshot(), "*", limit_of(20)), "");
  ControlChange reserve;
  reserve.reserve = 3;
  EXPECT_EQ(set_group_control(snapshot(), "chat", reserve), "");
  EXPECT_TRUE(in->wait(milliseconds(5000)));
  EXPECT_NE(in->group_generation(), before);
  ASSERT_EQ(in->group_controls().size(), 2u);
  EXPECT_EQ(in->group_controls()[0].limit, 10u);
  EXPECT_EQ(in->group_controls()[0].reserve, 3u);
  ASSERT_EQ(out->group_controls().size(), 1u);
  EXPECT_EQ(out->group_controls()[0].limit, 20u);
  EXPECT_EQ(snapshot().groups.size(), 2u);
  ControlChange nothing = limit_of(0);
  nothing.reserve = 0;
  EXPECT_EQ(set_group_control(snapshot(), "chat", nothing), "");
  EXPECT_EQ(snapshot().groups.size(), 1u);
}

TEST_F(SteeringTest, GroupsAreFewAndTheirNamesPlain) {
  auto owner = join();
  for (std::size_t j = 0; j < kGroups; ++j) {
    EXPECT_EQ(set_group_control(snapshot(), "g" + std::to_string(j), limit_of(1)), "");
  }
  EXPECT_NE(set_group_control(snapshot(), "more", limit_of(1)).find("in use"), std::string::npos);
  EXPECT_EQ(set_group_control(snapshot(), "g3", limit_of(0)), "");
  EXPECT_EQ(set_group_control(snapshot(), "more", limit_of(1)), "");
  EXPECT_NE(set_group_control(snapshot(), "", limit_of(1)), "");
  EXPECT_NE(set_group_control(snapshot(), "a\nb", limit_of(1)), "");
  EXPECT_NE(set_group_control(snapshot(), std::string(48, 'x'), limit_of(1)), "");
}

TEST_F(SteeringTest, WhoLiftedAGroupIsKeptAsLongAsACellIsUnused) {
  auto owner = join();
  ControlChange configured = limit_of(1);
  configured.by_configuration = true;
  EXPECT_EQ(set_group_control(snapshot(), "chat", configured), "");
  ASSERT_EQ(snapshot().groups.size(), 1u);
  EXPECT_EQ(snapshot().groups[0].set_by, 0);
  EXPECT_EQ(set_group_control(snapshot(), "chat", limit_of(0)), "");
  for (std::size_t j = 0; j + 1 < kGroups; ++j) {
    EXPECT_EQ(set_group_control(snapshot(), "g" + std::to_string(j), limit_of(1)), "");
  }
  ASSERT_EQ(snapshot().lifted_groups.size(), 1u);
  EXPECT_EQ(snapshot().lifted_groups[0].group.str(), "chat");
  EXPECT_EQ(snapshot().lifted_groups[0].set_by, getpid());
  EXPECT_EQ(set_group_control(snapshot(), "more", limit_of(1)), "") << "it is free nevertheless";
  EXPECT_TRUE(snapshot().lifted_groups.empty());
}

TEST_F(SteeringTest, AProcessCanBeMovedToAGroup) {
  auto owner = join();
  const GpuSnapshot gpu = snapshot();
  ControlChange change;
  change.group = "batch";
  EXPECT_EQ(set_control(gpu, gpu.records[0], change), "");
  EXPECT_EQ(set_group_control(gpu, "batch", limit_of(9)), "");
  EXPECT_EQ(owner->control().group.str(), "batch");
  ASSERT_EQ(owner->group_controls().size(), 1u);
}

ControlChange pause_of(bool paused) {
  ControlChange change;
  change.paused = paused;
  return change;
}

ControlChange release() {
  ControlChange change;
  change.release_now = true;
  return change;
}

TEST_F(SteeringTest, APausedGroupIsKeptAndShown) {
  Control member;
  member.group = "chat";
  auto owner = join(member);
  EXPECT_EQ(set_group_control(snapshot(), "chat", pause_of(true)), "");
  EXPECT_EQ(set_group_control(snapshot(), "batch", limit_of(5)), "");
  ASSERT_EQ(owner->group_controls().size(), 1u);
  EXPECT_EQ(owner->group_controls()[0].paused, 1u);
  const GpuSnapshot gpu = snapshot();
  ASSERT_EQ(gpu.groups.size(), 2u);
  EXPECT_EQ(gpu.groups[0].group.str(), "chat");
  EXPECT_EQ(gpu.groups[0].paused, 1u);
  EXPECT_EQ(set_group_control(snapshot(), "chat", pause_of(false)), "");
  EXPECT_EQ(snapshot().groups.size(), 1u);
}

TEST_F(SteeringTest, AGroupsReleaseReachesItsMembersAndTakesNoCell) {
  Control chat;
  chat.group = "chat";
  auto in = join(chat);
  auto out = join();
  for (std::size_t j = 0; j < kGroups; ++j) {
    EXPECT_EQ(set_group_control(snapshot(), "g" + std::to_string(j), pause_of(true)), "");
  }
  in->wait(milliseconds(0));
  EXPECT_EQ(set_group_control(snapshot(), "chat", release()), "");
  EXPECT_TRUE(in->wait(milliseconds(5000)));
  EXPECT_EQ(in->control().release_requests, 1u);
  EXPECT_EQ(in->control().group.str(), "chat");
  EXPECT_EQ(out->control().release_requests, 0u);
  EXPECT_EQ(set_group_control(snapshot(), "*", release()), "");
  EXPECT_EQ(in->control().release_requests, 2u);
  EXPECT_EQ(out->control().release_requests, 1u);
  const GpuSnapshot gpu = snapshot();
  EXPECT_EQ(gpu.groups.size(), kGroups);
  for (const Control& group : gpu.groups) EXPECT_EQ(group.paused, 1u) << group.group.str();
}

TEST_F(SteeringTest, AMemberThatCantBeSteeredDoesNotKeepAReleaseFromTheOthers) {
  auto stuck = join();
  auto other = join();
  const int file = open(path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(try_lock(file, control_lock(stuck->index())));
  EXPECT_NE(set_group_control(snapshot(), "*", release()).find("doesn't go on"), std::string::npos);
  EXPECT_EQ(other->control().release_requests, 1u);
  close(file);
}

TEST_F(SteeringTest, WhatFreesAGroupIsSaidAndFreesIt) {
  auto owner = join();
  for (std::size_t j = 0; j < kGroups; ++j) {
    ControlChange change = limit_of(1);
    change.reserve = 2;
    change.priority = 3;
    change.paused = true;
    EXPECT_EQ(set_group_control(snapshot(), "g" + std::to_string(j), change), "");
  }
  EXPECT_EQ(set_group_control(snapshot(), "more", limit_of(1)), groups_full());
  EXPECT_EQ(set_group_control(snapshot(), "more", pause_of(false)), "") << "takes no cell";
  EXPECT_NE(groups_full().find("kvshim limit @NAME none"), std::string::npos);
  ControlChange step = limit_of(0);
  EXPECT_EQ(set_group_control(snapshot(), "g7", step), "");
  step = {};
  step.reserve = 0;
  EXPECT_EQ(set_group_control(snapshot(), "g7", step), "");
  step = {};
  step.priority = 0;
  EXPECT_EQ(set_group_control(snapshot(), "g7", step), "");
  EXPECT_EQ(set_group_control(snapshot(), "more", limit_of(1)), groups_full()) << "still paused";
  EXPECT_EQ(set_group_control(snapshot(), "g7", pause_of(false)), "");
  EXPECT_EQ(set_group_control(snapshot(), "more", limit_of(1)), "");
}

}  // namespace
}  // namespace kvshim::segment
