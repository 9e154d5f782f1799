#include "tools/kvshim/figures_text.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvshim::cli {
namespace {

TEST(FiguresText, WritesBytesInFiveColumns) {
  EXPECT_EQ(short_bytes(0), "0");
  EXPECT_EQ(short_bytes(1023), "1023");
  EXPECT_EQ(short_bytes(64 << 10), "64K");
  EXPECT_EQ(short_bytes(1023 << 20), "1023M");
  EXPECT_EQ(short_bytes(std::uint64_t{1} << 30), "1.00G");
  EXPECT_EQ(short_bytes(std::uint64_t{80} << 30), "80.0G");
  EXPECT_EQ(short_bytes(std::uint64_t{999} << 30), "999G");
  EXPECT_EQ(short_bytes(std::uint64_t{1000} << 30), "0.97T");
  for (int shift = 0; shift < 64; ++shift) {
    for (const std::uint64_t bytes : {(std::uint64_t{1} << shift) - 1, std::uint64_t{1} << shift}) {
      EXPECT_LE(short_bytes(bytes).size(), 5u) << bytes;
    }
  }
  EXPECT_LE(short_bytes(UINT64_MAX).size(), 5u);
}

TEST(FiguresText, DoesNotRoundANearlyFullGpuUp) {
  EXPECT_EQ(short_bytes((std::uint64_t{80} << 30) - 1), "79.9G");
}

TEST(FiguresText, WritesFewBytesAsBytes) {
  EXPECT_EQ(long_bytes(0), "0 KiB");
  EXPECT_EQ(long_bytes(1), "1 byte");
  EXPECT_EQ(long_bytes(20), "20 bytes");
  EXPECT_EQ(long_bytes(1023), "1023 bytes");
  EXPECT_EQ(long_bytes(1024), "1 KiB");
  EXPECT_EQ(long_bytes(std::uint64_t{20} << 30), "20.0 GiB");
}

TEST(FiguresText, WritesTimesAndCountsInFiveColumns) {
  EXPECT_EQ(short_microseconds(101), "101us");
  EXPECT_EQ(short_microseconds(3288), "3.3ms");
  EXPECT_EQ(short_microseconds(40000), "40ms");
  EXPECT_EQ(short_microseconds(2500000), "2.5s");
  EXPECT_EQ(short_seconds(0.44), "0.4s");
  EXPECT_EQ(short_seconds(90), "90s");
  EXPECT_EQ(short_seconds(3600), "60m");
  EXPECT_EQ(short_seconds(86400), "24h");
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(7.25), "7.2");
  EXPECT_EQ(short_count(1234), "1234");
  EXPECT_EQ(short_count(12345), "12.3k");
  for (double value = 0.001; value < 1e15; value *= 3) {
    EXPECT_LE(short_seconds(value).size(), 5u) << value;
    EXPECT_LE(short_count(value).size(), 5u) << value;
    EXPECT_LE(short_microseconds(static_cast<std::uint64_t>(value)).size(), 5u) << value;
  }
}

}  // namespace
}  // namespace kvshim::cli
