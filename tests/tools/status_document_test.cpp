#include "tools/kvshim/status_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(StatusDocument, ReadsPoolsKernelsAndReasons) {
  const auto status = parse_status(R"({"version": "9", "pid": 7, "config": "defaults", "devices": [
      {"device": 1, "pools": [{"id": 3, "bytes": 100, "resident": 60, "parked": 10, "absent": 30,
        "pinned": true, "group": "kv", "reason": "a rule"}], "faults": {"count": 5, "p99_us": 80}}],
      "kernels": [{"name": "w", "role": "writer", "reason": "vllm", "treated_as": ["guarded write"]}],
      "unknown_kernels": [{"name": "u", "launches": 2, "bytes": 9, "words": "p0+0/8"}],
      "obstacles": ["sleep mode"]})");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->pid, 7);
  ASSERT_THAT(status->devices, SizeIs(1));
  ASSERT_THAT(status->devices[0].pools, SizeIs(1));
  EXPECT_TRUE(status->devices[0].pools[0].pinned);
  EXPECT_EQ(status->devices[0].pools[0].reason, "a rule");
  EXPECT_EQ(status->devices[0].faults, 5u);
  ASSERT_THAT(status->kernels, SizeIs(2));
  EXPECT_THAT(status->kernels[0].treated_as, ElementsAre("guarded write"));
  EXPECT_EQ(status->kernels[1].unknown_launches, 2u);
  EXPECT_THAT(status->obstacles, ElementsAre("sleep mode"));
}

TEST(StatusDocument, TakesFieldsOfTheWrongKindForMissing) {
  const auto status = parse_status(
      R"({"devices": [7, {"pools": {"id": 1}, "faults": [], "resident": "much"}], "kernels": "none",
          "version": "3", "config": 4, "pid": 4, "start_time": "early"})");
  ASSERT_TRUE(status);
  ASSERT_THAT(status->devices, SizeIs(1));
  EXPECT_THAT(status->devices[0].pools, IsEmpty());
  EXPECT_EQ(status->devices[0].resident, 0u);
  EXPECT_EQ(status->config, "");
  EXPECT_EQ(status->start_time, 0u);
}

TEST(StatusDocument, MakesTextsPrintable) {
  const auto status = parse_status(R"({"devices": [], "pid": 7, "version": "a\u001b[2Jb"})");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->version, "a?[2Jb");
}

TEST(StatusDocument, IsNotAnyText) {
  EXPECT_FALSE(parse_status(""));
  EXPECT_FALSE(parse_status("{\"devices\": ["));
  EXPECT_FALSE(parse_status("[1]"));
  EXPECT_FALSE(parse_status("{}"));
  EXPECT_TRUE(parse_status(R"({"devices": [], "version": "9", "pid": 7})"));
  EXPECT_FALSE(parse_status(R"({"devices": {}, "version": "9", "pid": 7})"));
  EXPECT_FALSE(parse_status(R"({"devices": [], "version": 9, "pid": 7})"));
  EXPECT_FALSE(parse_status(R"({"devices": [], "version": "9", "pid": "7"})"));
  EXPECT_FALSE(parse_status(R"({"devices": [], "version": "9", "pid": -7})"));
}

TEST(StatusDocument, IsNotALinkNorAFifo) {
  std::string complaint;
  EXPECT_FALSE(read_status("/proc/self/exe", &complaint));
  EXPECT_EQ(complaint, "/proc/self/exe: not a file of this user");
  EXPECT_FALSE(read_status("/nowhere/7.json", &complaint));
  EXPECT_EQ(complaint, "/nowhere/7.json: No such file or directory");
}

}  // namespace
}  // namespace kvshim::cli
