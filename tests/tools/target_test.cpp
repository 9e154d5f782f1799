#include "tools/kvshim/target.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "segment/contents.h"
#include "tools/kvshim/outcome.h"

namespace kvshim::cli {
namespace {

segment::RecordSnapshot living(const segment::Identity& identity) {
  segment::RecordSnapshot record;
  record.live = true;
  record.identity = identity;
  return record;
}

/// As another container's process with this one's number.
segment::Identity namesake(std::uint64_t pid_namespace) {
  segment::Identity identity = segment::own_identity();
  identity.pid_namespace = pid_namespace;
  return identity;
}

std::vector<segment::GpuSnapshot> one_gpu(std::vector<segment::RecordSnapshot> records) {
  segment::GpuSnapshot gpu;
  gpu.uuid = "GPU-1";
  gpu.records = std::move(records);
  return {gpu};
}

TEST(TargetTest, ANumberIsThatOfTheProcessThatRunsHere) {
  const auto segments = one_gpu({living(namesake(1)), living(segment::own_identity())});
  const std::vector<Target> found = find_targets(segments, std::to_string(::getpid()), "");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].record, &segments[0].records[1]);
}

TEST(TargetTest, OfSeveralElsewhereNoneIsGuessed) {
  const auto segments = one_gpu({living(namesake(1)), living(namesake(2))});
  try {
    find_targets(segments, std::to_string(::getpid()), "");
    ADD_FAILURE() << "one was chosen";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Exit::kAmbiguous);
  }
}

TEST(TargetTest, OneElsewhereIsFoundByItsNumber) {
  const auto segments = one_gpu({living(namesake(1))});
  EXPECT_EQ(find_targets(segments, std::to_string(::getpid()), "").size(), 1u);
}

}  // namespace
}  // namespace kvshim::cli
