// SIGKILL at random points of everything that a process does here.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

using std::chrono::milliseconds;

class KillTest : public SegmentTest {
 protected:
  // Joins, works without pause, leaves, joins again: any instruction can be the last.
  int member(unsigned seed) {
    std::minstd_rand random(seed);
    for (;;) {
      Control initial;
      initial.limit = 1'000'000;
      auto owner = join(initial);
      if (owner == nullptr) return 1;
      for (unsigned i = 0; i < 50 + random() % 100; ++i) {
        Figures figures;
        figures.pools = figures.resident = figures.unknown_kernels = i;
        owner->publish(figures, {});
        owner->post_need(1 + i, NeedKind::kFault);
        for (const NeighbourNeed& need : owner->needs()) owner->answer(need, 1);
        owner->tick();
        // What tools write is all or nothing: limit and reserve go together.
        const Control control = owner->control();
        if (control.limit != 1'000'000 + control.reserve) return 2;
        owner->clear_need();
      }
      owner->detach();
    }
  }
  int tool(unsigned seed) {
    std::minstd_rand random(seed);
    for (;;) {
      for (const GpuSnapshot& gpu : read_all(folder_)) {
        if (!gpu.error.empty()) continue;
        for (const RecordSnapshot& record : gpu.records) {
          if (!record.live || record.control.limit < 1'000'000) continue;  // the test's own
          ControlChange change;
          change.reserve = random() % 1000;
          change.limit = 1'000'000 + *change.reserve;
          set_control(gpu, record, change);
          set_group_control(gpu, "*", change);
        }
      }
    }
  }
};

TEST_F(KillTest, FiftyKillsAreNoticedWithinTwoSecondsAndLoseNothing) {
  Control initial;
  initial.limit = 17;
  auto witness = join(initial);
  std::mt19937 random(20261124);
  unsigned seed = 0;
  const auto start = [&]() -> Child {
    const unsigned own = ++seed;
    return own % 4 == 0 ? Child([=, this] { return tool(own); })
                        : Child([=, this] { return member(own); });
  };
  std::vector<Child> children;
  for (int i = 0; i < 4; ++i) children.push_back(start());
  milliseconds longest{0};
  for (int kill = 0; kill < 50; ++kill) {
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    Child& victim = children[random() % children.size()];
    const pid_t pid = victim.pid();
    ::kill(pid, SIGKILL);
    ASSERT_EQ(victim.wait(), 128 + SIGKILL) << "nobody ended by itself";
    const auto killed = std::chrono::steady_clock::now();
    bool problem = false;
    const auto noticed = [&] {
      problem |= !witness->tick().problems.empty();
      for (const RecordSnapshot& record : snapshot().records) {
        if (record.identity.pid == pid) return false;
      }
      return true;
    };
    ASSERT_TRUE(eventually(noticed, milliseconds(10000)));
    longest = std::max(longest, std::chrono::duration_cast<milliseconds>(
                                    std::chrono::steady_clock::now() - killed));
    EXPECT_FALSE(problem);
    victim = start();
  }
  EXPECT_LT(longest, milliseconds(2000));
  for (Child& child : children) child.kill();
  EXPECT_TRUE(eventually([&] {
    witness->tick();
    return snapshot().records.size() == 1;
  })) << "every record is free again";
  EXPECT_EQ(witness->control().limit, 17u);
  EXPECT_TRUE(snapshot().records[0].missing.empty());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1)
      << "nothing was set aside";
}

TEST_F(KillTest, OneKilledWhileMakingTheFileHoldsNobodyUp) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    unlink(path().c_str());
    Child maker([&] { return join() != nullptr ? pause() : 1; });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 1500));
    maker.kill();
    auto owner = join();
    ASSERT_NE(owner, nullptr);
    EXPECT_EQ(snapshot().error, "");
  }
}

}  // namespace
}  // namespace kvshim::segment
