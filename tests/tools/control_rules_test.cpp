#include "tools/kvshim/control_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/snapshots.h"
#include "tools/kvshim/outcome.h"

namespace kvshim::cli {
namespace {

using ::testing::HasSubstr;
using testing::kGiB;

/// What the call fails with; kDone when it doesn't.
template <class Call>
Exit failure_of(Call&& call, const std::string& said = "") {
  try {
    call();
  } catch (const Failure& failure) {
    EXPECT_THAT(failure.what(), HasSubstr(said));
    return failure.code();
  }
  return Exit::kDone;
}

/// One process with 4 GiB of weights on a GPU of 80 GiB, and a neighbour.
struct Scene {
  Scene() {
    gpu.records.resize(2);
    for (std::size_t i = 0; i < 2; ++i) {
      gpu.records[i].index = i;
      gpu.records[i].live = true;
      gpu.records[i].identity.gpu_total = 80 * kGiB;
    }
    gpu.records[0].figures.other_bytes = 4 * kGiB;
    target = {&gpu, &gpu.records[0], "7 (engine)"};
  }
  segment::GpuSnapshot gpu;
  Target target;
};

TEST(Amount, IsASizeAShareOrNone) {
  EXPECT_EQ(read_amount("20GiB", 0), 20 * kGiB);
  EXPECT_EQ(read_amount("50%", 80 * kGiB), 40 * kGiB);
  EXPECT_EQ(read_amount("12.5%", 80 * kGiB), 10 * kGiB);
  EXPECT_EQ(read_amount("none", 0), 0u);
}

TEST(Amount, MustMakeSense) {
  EXPECT_EQ(failure_of([] { read_amount("much", kGiB); }, "20GiB, 50% or none"), Exit::kUsage);
  EXPECT_EQ(failure_of([] { read_amount("%", kGiB); }), Exit::kUsage);
  EXPECT_EQ(failure_of([] { read_amount("-5%", kGiB); }), Exit::kUsage);
  EXPECT_EQ(failure_of([] { read_amount("nan%", kGiB); }), Exit::kUsage);
  EXPECT_EQ(failure_of([] { read_amount("0%", kGiB); }), Exit::kUsage);
  EXPECT_EQ(failure_of([] { read_amount("101%", kGiB); }), Exit::kRefused);
  EXPECT_EQ(failure_of([] { read_amount("50%", 0); }, "give a size"), Exit::kRefused);
  EXPECT_EQ(failure_of([] { read_amount("0", kGiB); }, "say none"), Exit::kRefused);
}

TEST(Limit, LiesBetweenWhatIsNoPoolAndTheGpu) {
  Scene scene;
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 81 * kGiB); }, "80.0 GiB"), Exit::kRefused);
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 4 * kGiB - 1); }, "4.00 GiB of weights"),
            Exit::kRefused);
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 4 * kGiB); }), Exit::kDone);
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 80 * kGiB); }), Exit::kDone);
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 0); }), Exit::kDone);
}

TEST(Limit, IsNotBelowTheReserve) {
  Scene scene;
  scene.gpu.records[0].control.reserve = 10 * kGiB;
  EXPECT_EQ(failure_of([&] { check_limit(scene.target, 9 * kGiB); }, "lower the reserve first"),
            Exit::kRefused);
}

TEST(Reserve, IsNotAboveTheLimit) {
  Scene scene;
  scene.gpu.records[0].control.limit = 10 * kGiB;
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, 11 * kGiB); }, "raise the limit first"),
            Exit::kRefused);
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, 10 * kGiB); }), Exit::kDone);
}

TEST(Reserve, FitsBesideThoseOfLivingNeighbours) {
  Scene scene;
  scene.gpu.records[1].control.reserve = 50 * kGiB;
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, 31 * kGiB); }, "50.0 GiB"),
            Exit::kRefused);
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, 30 * kGiB); }), Exit::kDone);
  scene.gpu.records[1].live = false;
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, 31 * kGiB); }), Exit::kDone);
}

TEST(Reserve, SurvivesNonsenseOfNeighbours) {
  Scene scene;
  scene.gpu.records[1].control.reserve = UINT64_MAX;
  EXPECT_EQ(failure_of([&] { check_reserve(scene.target, kGiB); }), Exit::kRefused);
}

}  // namespace
}  // namespace kvshim::cli
