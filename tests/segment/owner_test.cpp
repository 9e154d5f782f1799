#include "segment/owner.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

using OwnerTest = SegmentTest;

TEST_F(OwnerTest, MakesAPrivateFileOfItsFullSize) {
  auto owner = join();
  struct stat info {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(info.st_size, static_cast<off_t>(sizeof(Segment)));
  EXPECT_GE(info.st_blocks * 512, info.st_size) << "allocated as a whole";
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(OwnerTest, TheFileIsPrivateWhateverTheUmask) {
  for (const mode_t mask : {0u, 0777u}) {
    const mode_t before = umask(mask);
    auto owner = join();
    umask(before);
    struct stat info {};
    ASSERT_EQ(stat(path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
    owner.reset();
    unlink(path().c_str());
  }
}

TEST_F(OwnerTest, WhatItPublishesCanBeRead) {
  Identity identity = own_identity();
  identity.status_file = "/run/x/1.json";
  Control initial;
  initial.limit = 20;
  initial.priority = 5000;
  auto owner = join(initial, identity);
  Figures figures;
  figures.pools = 3;
  figures.resident = 1 << 20;
  figures.idle_ms = 17;
  Settings settings;
  settings.limit = 20;
  settings.disposable = 1;
  owner->publish(figures, settings);

  const GpuSnapshot gpu = snapshot();
  EXPECT_EQ(gpu.error, "");
  EXPECT_EQ(gpu.uuid, kUuid);
  ASSERT_EQ(gpu.records.size(), 1u);
  const RecordSnapshot& record = gpu.records[0];
  EXPECT_TRUE(record.live);
  EXPECT_TRUE(record.missing.empty());
  EXPECT_EQ(record.claim, owner->claim());
  EXPECT_EQ(record.identity.pid, getpid());
  EXPECT_EQ(record.identity.status_file.str(), "/run/x/1.json");
  EXPECT_EQ(record.figures.pools, 3u);
  EXPECT_EQ(record.figures.resident, 1u << 20);
  EXPECT_EQ(record.figures.idle_ms, 17u);
  EXPECT_EQ(record.settings.disposable, 1u);
  EXPECT_EQ(record.control.limit, 20u);
  EXPECT_EQ(record.control.priority, kMostPriority) << "clamped";
  EXPECT_EQ(record.need.bytes, 0u);
}

TEST_F(OwnerTest, AnOrderlyEndLeavesAFreeRecord) {
  auto owner = join();
  owner->post_need(100, NeedKind::kFault);
  owner->detach();
  owner->wait(std::chrono::milliseconds(0));
  EXPECT_FALSE(owner->attached());
  EXPECT_TRUE(snapshot().records.empty());
  owner->detach();
  owner->publish({}, {});
  EXPECT_EQ(owner->neighbours(), 0u);
  EXPECT_TRUE(owner->needs().empty());
  EXPECT_FALSE(owner->wait(std::chrono::milliseconds(1)));
  EXPECT_TRUE(owner->tick().problems.empty());
  EXPECT_FALSE(owner->attached());
}

TEST_F(OwnerTest, ProcessesOfOneGpuMeetAndThoseOfAnotherDoNot) {
  auto one = join();
  auto two = join();
  std::string why;
  const std::string other = "GPU-ffffffff-4455-6677-8899-aabbccddeeff";
  auto elsewhere = Owner::attach(folder_, other, own_identity(), {}, &said_, &why);
  ASSERT_NE(elsewhere, nullptr) << why;
  EXPECT_EQ(one->neighbours(), 1u);
  EXPECT_EQ(two->neighbours(), 1u);
  EXPECT_EQ(elsewhere->neighbours(), 0u);
  EXPECT_NE(one->index(), two->index());
  EXPECT_NE(one->claim(), two->claim());
  EXPECT_EQ(read_all(folder_).size(), 2u);
}

TEST_F(OwnerTest, SeveralThatStartAtOnceMakeOneFileAndAllGetRecords) {
  std::vector<Child> children;
  for (int i = 0; i < 12; ++i) {
    children.emplace_back([&] {
      auto owner = join();
      if (owner == nullptr || !said_.problems.empty()) return 1;
      const bool met = eventually([&] { return owner->neighbours() == 11; });
      // Nobody leaves before all have met.
      owner->post_need(met ? 1 : 2, NeedKind::kFault);
      return eventually([&] { return owner->needs().size() == 11; }) ? pause() : 2;
    });
  }
  EXPECT_TRUE(eventually(
      [&] {
        const std::vector<GpuSnapshot> all = read_all(folder_);
        if (all.size() != 1 || all[0].records.size() != 12) return false;
        for (const RecordSnapshot& record : all[0].records) {
          if (!record.live || record.need.bytes != 1) return false;
        }
        return true;
      },
      std::chrono::seconds(20)));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1)
      << "nothing was set aside";
}

TEST_F(OwnerTest, OneMoreThanTheRecordsIsRefusedUntilOneLeaves) {
  std::vector<std::unique_ptr<Owner>> owners;
  std::set<std::uint64_t> claims;
  for (std::size_t i = 0; i < kRecords; ++i) {
    owners.push_back(join());
    claims.insert(owners.back()->claim());
  }
  EXPECT_EQ(claims.size(), kRecords);
  EXPECT_NE(refusal().find("all 64 records are taken"), std::string::npos);
  owners[20].reset();
  auto late = join();
  EXPECT_EQ(late->index(), 20u);
  EXPECT_EQ(claims.count(late->claim()), 0u) << "no claim comes twice";
}

TEST_F(OwnerTest, WhatIsNoUuidIsRefusedBeforeAFileIsNamedAfterIt) {
  std::string why;
  EXPECT_EQ(Owner::attach(folder_, "../x", own_identity(), {}, &said_, &why), nullptr);
  EXPECT_NE(why.find("not the UUID"), std::string::npos);
}

TEST_F(OwnerTest, ATickCostsLittleWhenNothingHappened) {
  auto owner = join();
  owner->tick();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) owner->tick();
  const auto each = (std::chrono::steady_clock::now() - start) / 1000;
  EXPECT_LT(each, std::chrono::microseconds(200));
}

TEST_F(OwnerTest, NeverSitsOnAStandardStream) {
  Child child([&] {
    for (int file = 0; file < 3; ++file) close(file);
    auto owner = join();
    for (int file = 0; file < 3; ++file) {
      if (fcntl(file, F_GETFD) != -1) return 1;
    }
    return owner != nullptr && owner->tick().problems.empty() ? 0 : 2;
  });
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace kvshim::segment
