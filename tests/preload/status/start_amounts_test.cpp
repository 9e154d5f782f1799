#include "preload/start_amounts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::preload {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

config::Options options_with(std::uint64_t limit, std::uint64_t reserve) {
  config::Options options;
  options.limit.bytes = limit;
  options.reserve.bytes = reserve;
  return options;
}

TEST(StartAmountsTest, WhatFitsHoldsWithoutAWord) {
  const config::Options options = options_with(4 * kGiB, 2 * kGiB);
  EXPECT_THAT(oversized_amounts(options, 4 * kGiB, 4 * kGiB), IsEmpty());
  EXPECT_EQ(reserve_at_start(options, 4 * kGiB, 4 * kGiB), 2 * kGiB);
  EXPECT_THAT(oversized_amounts(config::Options(), 0, kGiB), IsEmpty());
}

TEST(StartAmountsTest, ALimitAboveTheGpuIsTold) {
  EXPECT_THAT(oversized_amounts(options_with(100 * kGiB, 0), 100 * kGiB, 4 * kGiB),
              ElementsAre(StartsWith("a limit of 100GiB is above the GPU's 4096 MiB")));
}

TEST(StartAmountsTest, AReserveIsAtMostWhatTheProcessCanHave) {
  const config::Options options = options_with(0, 100 * kGiB);
  EXPECT_EQ(reserve_at_start(options, 0, 4 * kGiB), 4 * kGiB);
  EXPECT_EQ(reserve_at_start(options, kGiB, 4 * kGiB), kGiB);
  EXPECT_EQ(reserve_at_start(options, 100 * kGiB, 4 * kGiB), 4 * kGiB);
  EXPECT_THAT(oversized_amounts(options, kGiB, 4 * kGiB),
              ElementsAre(StartsWith("a reserve of 100GiB is above what the process can have and "
                                     "counts as 1024 MiB")));
}

}  // namespace
}  // namespace kvshim::preload
