// Members of a group divide its limit: never more than all of it, whoever races or dies.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <new>
#include <random>
#include <vector>

#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class QuotaTest : public SegmentTest {
 protected:
  std::unique_ptr<Owner> member(const char* group) {
    Control initial;
    initial.group = group;
    return join(initial);
  }
  static void holds(Owner& owner, std::uint64_t resident, std::uint64_t other = 0) {
    Figures figures;
    figures.resident = resident;
    figures.other_bytes = other;
    owner.publish(figures, {});
  }
};

TEST_F(QuotaTest, OneGetsWhatTheOthersDoNotHave) {
  const auto one = member("g"), two = member("g");
  const std::vector<GroupLimit> limits{{"g", 1000}};
  EXPECT_EQ(one->raise_quota(700, limits), 700u);
  EXPECT_EQ(two->raise_quota(700, limits), 300u);
  EXPECT_EQ(two->quota(), 300u);
  EXPECT_EQ(two->raise_quota(100, limits), 300u) << "raising never lowers";
  one->lower_quota(400);
  EXPECT_EQ(two->raise_quota(700, limits), 600u);
}

TEST_F(QuotaTest, WhoHasNoQuotaYetCountsByWhatItHolds) {
  const auto one = member("g"), two = member("g");
  holds(*two, 300, 250);
  EXPECT_EQ(one->raise_quota(1000, {{"g", 1000}}), 450u);
}

TEST_F(QuotaTest, MoreThanTheQuotaCountsWhenItIsHeld) {
  const auto one = member("g"), two = member("g");
  EXPECT_EQ(two->raise_quota(100, {{"g", 1000}}), 100u);
  holds(*two, 0, 600);
  EXPECT_EQ(one->raise_quota(1000, {{"g", 1000}}), 400u);
}

TEST_F(QuotaTest, OtherGroupsDoNotCountAndEverybodyDoesForAll) {
  const auto one = member("g"), two = member("h");
  EXPECT_EQ(two->raise_quota(900, {{"h", 1000}}), 900u);
  EXPECT_EQ(one->raise_quota(1000, {{"g", 1000}}), 1000u);
  one->lower_quota(0);
  EXPECT_EQ(one->raise_quota(1000, {{"g", 1000}, {"*", 1000}}), 100u);
}

TEST_F(QuotaTest, ADeadMembersQuotaIsFree) {
  Child victim([&] {
    const auto owner = member("g");
    if (owner == nullptr || owner->raise_quota(900, {{"g", 1000}}) != 900) return 1;
    return pause();
  });
  const auto one = member("g");
  const std::vector<GroupLimit> limits{{"g", 1000}};
  ASSERT_TRUE(eventually([&] {
    const GpuSnapshot now = snapshot();
    for (const RecordSnapshot& record : now.records) {
      if (record.identity.pid == victim.pid() && record.quota == 900) return true;
    }
    return false;
  }));
  EXPECT_EQ(one->raise_quota(1000, limits), 100u);
  victim.kill();
  EXPECT_EQ(one->raise_quota(1000, limits), 1000u);
}

TEST_F(QuotaTest, ANewProcessInADeadOnesRecordBeginsWithNone) {
  Child victim([&] {
    const auto owner = member("g");
    owner->want_quota(50);
    return owner != nullptr && owner->raise_quota(900, {{"g", 1000}}) == 900 ? pause() : 1;
  });
  ASSERT_TRUE(eventually([&] {
    const std::vector<GpuSnapshot> all = read_all(folder_);
    return !all.empty() && !all[0].records.empty() && all[0].records[0].quota == 900;
  }));
  victim.kill();
  const auto heir = member("g");
  EXPECT_EQ(heir->index(), 0u);
  EXPECT_EQ(heir->quota(), 0u);
  const auto other = member("g");
  ASSERT_EQ(other->states().size(), 1u);
  EXPECT_EQ(other->states()[0].quota_wanted, 0u);
}

TEST_F(QuotaTest, AWishIsSeenByTheOthersAndRingsThem) {
  const auto one = member("g"), two = member("g");
  two->wait(std::chrono::milliseconds(1));  // the bell of joining
  one->want_quota(77);
  EXPECT_TRUE(two->wait(std::chrono::seconds(5)));
  EXPECT_EQ(two->states()[0].quota_wanted, 77u);
  one->want_quota(0);
  EXPECT_EQ(two->states()[0].quota_wanted, 0u);
}

// Each adds to a common counter what it was granted, after the grant, and takes away what it
// gives up before it does: the counter is never more than the quotas' true sum.
TEST_F(QuotaTest, TheSumNeverExceedsTheLimitHoweverManyRace) {
  constexpr std::uint64_t kLimit = 1000 * kMiB;
  constexpr int kMembers = 6;
  void* const shared =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* const sum = new (shared) std::atomic<std::uint64_t>(0);
  std::vector<Child> children;
  for (int i = 0; i < kMembers; ++i) {
    children.emplace_back([&, i] {
      const auto owner = member("g");
      if (owner == nullptr) return 1;
      std::mt19937_64 chance(static_cast<std::uint64_t>(i));
      const std::vector<GroupLimit> limits{{"g", kLimit}};
      std::uint64_t has = 0;
      int grants = 0;
      const std::uint64_t end = monotonic_ns() + 30'000'000'000;
      while (grants < 300 && monotonic_ns() < end) {
        const std::uint64_t got = owner->raise_quota(has + chance() % (kLimit / 2), limits);
        if (sum->fetch_add(got - has) + (got - has) > kLimit) return 2;
        grants += got > has ? 1 : 0;
        has = chance() % (got + 1);
        sum->fetch_sub(got - has);
        owner->lower_quota(has);
      }
      sum->fetch_sub(has);
      return grants == 300 ? 0 : 3;
    });
  }
  for (Child& child : children) EXPECT_EQ(child.wait(), 0);
  munmap(shared, 4096);
}

}  // namespace
}  // namespace kvshim::segment
