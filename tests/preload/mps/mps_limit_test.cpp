// How a client's limit is read.
#include <gtest/gtest.h>

#include "preload/mps.h"

namespace kvshim::preload {
namespace {

constexpr const char* kUuid = "GPU-6b767368-696d-736d-5480-0858ac7bd508";
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

std::uint64_t limit(std::string_view text, CUdevice device, std::string* problem = nullptr) {
  std::string ignored;
  return mps_limit(text, device, kUuid, problem != nullptr ? problem : &ignored);
}

TEST(MpsLimit, IsReadByOrdinalAndByUuid) {
  EXPECT_EQ(limit("0=1G,1=512MB", 0), kGiB);
  EXPECT_EQ(limit("0=1G,1=512MB", 1), kGiB / 2);
  EXPECT_EQ(limit("0=1G, 1=512M", 1), kGiB / 2);
  EXPECT_EQ(limit("0=1G", 1), 0u);
  EXPECT_EQ(limit("GPU-6b76=3GB", 5), 3 * kGiB);
  EXPECT_EQ(limit("GPU-7=3GB", 5), 0u);
  EXPECT_EQ(limit("", 0), 0u);
}

TEST(MpsLimit, WhatIsNotUnderstoodIsSaidAndTheRestHolds) {
  for (const char* text : {"20G", "0=", "0=G", "0=12", "0=-1G", "0=1T", "0=99999999999999G", "="}) {
    std::string problem;
    EXPECT_EQ(limit(text, 0, &problem), 0u) << text;
    EXPECT_NE(problem.find("DEVICE=LIMIT"), std::string::npos) << text;
  }
  std::string problem;
  EXPECT_EQ(limit("nonsense,0=2G", 0, &problem), 2 * kGiB);
  EXPECT_NE(problem, "");
}

}  // namespace
}  // namespace kvshim::preload
