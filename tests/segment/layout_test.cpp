#include "segment/layout.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <set>

namespace kvshim::segment {
namespace {

// The layout is a contract between processes: whoever changes one of these
// must change kLayoutVersion too.
TEST(LayoutTest, IsTheOneThatTheVersionStandsFor) {
  EXPECT_EQ(kLayoutVersion, 4u);
  EXPECT_EQ(sizeof(Segment), 270336u);
  EXPECT_EQ(sizeof(Record), 2304u);
  EXPECT_EQ(sizeof(Identity), 1264u);
  EXPECT_EQ(sizeof(Figures), 272u);
  EXPECT_EQ(sizeof(Settings), 64u);
  EXPECT_EQ(sizeof(Need), 32u);
  EXPECT_EQ(sizeof(Control), 104u);
  EXPECT_EQ(sizeof(HeaderContents), 80u);
  EXPECT_EQ(offsetof(Record, bell), 64u);
  EXPECT_EQ(offsetof(Record, answers), 128u);
  EXPECT_EQ(offsetof(Record, quota), 192u);
  EXPECT_EQ(offsetof(Record, need), 256u);
  EXPECT_EQ(offsetof(Record, control), 320u);
}

TEST(LayoutTest, LocksOfDifferentThingsNeverMeet) {
  std::set<std::int64_t> bytes{kMakerLock, kQuotaLock};
  for (std::size_t i = 0; i < kRecords; ++i) {
    bytes.insert(record_lock(i));
    bytes.insert(control_lock(i));
  }
  for (std::size_t j = 0; j < kGroups; ++j) bytes.insert(group_lock(j));
  EXPECT_EQ(bytes.size(), 2 + 2 * kRecords + kGroups);
  EXPECT_GT(*bytes.begin(), static_cast<std::int64_t>(sizeof(Segment)));
  EXPECT_GE(control_lock(0), kLockBase + kLockedRecords);
}

TEST(LayoutTest, TheUuidReadsAsNvmlPrintsIt) {
  std::array<unsigned char, 16> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(0xe1 + i);
  const std::string text = uuid_text(bytes);
  EXPECT_EQ(text, "GPU-e1e2e3e4-e5e6-e7e8-e9ea-ebecedeeeff0");
  EXPECT_TRUE(is_uuid_text(text));
}

TEST(LayoutTest, WhatIsNoUuidIsNotTakenForOne) {
  for (const char* text :
       {"", "GPU-", "GPU-e1e2e3e4-e5e6-e7e8-e9ea-ebecedeeeff",
        "../../../../../../../etc/passwd12345678", "GPU-e1e2e3e4-e5e6-e7e8-e9ea-ebecedeeeff0.bad",
        "GPU-E1e2e3e4-e5e6-e7e8-e9ea-ebecedeeeff0", "GPU-e1e2e3e4e5e6-e7e8-e9ea-ebecedeeeff00",
        "MIG-e1e2e3e4-e5e6-e7e8-e9ea-ebecedeeeff0"}) {
    EXPECT_FALSE(is_uuid_text(text)) << text;
  }
}

TEST(TextTest, IsCutAndAlwaysEnds) {
  Text<8> text(std::string_view("0123456789"));
  EXPECT_EQ(text.str(), "0123456");
  text.bytes.fill('x');  // a hostile writer's, without an end
  EXPECT_EQ(text.str(), "xxxxxxx");
}

TEST(TextTest, BytesThatSteerATerminalAreReplaced) {
  const Text<32> text(std::string_view("a\033[2Jb\nc\x7f"));
  EXPECT_EQ(text.str(), "a?[2Jb?c?");
}

TEST(TextTest, OnlyUtf8WithoutControlCharactersPasses) {
  const auto shown = [](std::string_view text) { return Text<32>(text).str(); };
  EXPECT_EQ(shown("gr\u00fc\u00df \u20ac \U0001f600"), "gr\u00fc\u00df \u20ac \U0001f600");
  EXPECT_EQ(shown("a\x9b[2J"), "a?[2J") << "a bare C1 byte";
  EXPECT_EQ(shown("a\xc2\x9b[2J"), "a??[2J") << "the same as UTF-8";
  EXPECT_EQ(shown("\xc0\x9b\xe0\x80\x9b"), "?????") << "overlong";
  EXPECT_EQ(shown("\xed\xa0\x80"), "???") << "a surrogate";
  EXPECT_EQ(shown("\xf4\x90\x80\x80\xff"), "?????") << "beyond Unicode";
  EXPECT_EQ(shown("\xe2\x82"), "??") << "cut";
  EXPECT_EQ(shown("\xe2\033[2J"), "??[2J");
  EXPECT_EQ(Text<4>(std::string_view("ab\u20ac")).str(), "ab?") << "cut by the array";
}

}  // namespace
}  // namespace kvshim::segment
