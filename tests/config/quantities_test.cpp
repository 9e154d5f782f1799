#include "config/quantities.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::config {
namespace {

using testing::HasSubstr;

Bytes bytes(const char* text) {
  std::string complaint;
  const auto value = parse_bytes(text, &complaint);
  EXPECT_TRUE(value.has_value()) << complaint;
  return value.value_or(0);
}

Duration duration(const char* text) {
  std::string complaint;
  const auto value = parse_duration(text, &complaint);
  EXPECT_TRUE(value.has_value()) << complaint;
  return value.value_or(Duration{});
}

std::string complaint_about_bytes(const char* text) {
  std::string complaint;
  EXPECT_FALSE(parse_bytes(text, &complaint).has_value()) << text;
  return complaint;
}

std::string complaint_about_duration(const char* text) {
  std::string complaint;
  EXPECT_FALSE(parse_duration(text, &complaint).has_value()) << text;
  return complaint;
}

TEST(BytesTest, BinaryAndDecimalUnitsDiffer) {
  EXPECT_EQ(bytes("64MiB"), Bytes{64} << 20);
  EXPECT_EQ(bytes("64MB"), Bytes{64'000'000});
  EXPECT_EQ(bytes("1TiB"), Bytes{1} << 40);
  EXPECT_EQ(bytes("3k"), Bytes{3072});
  EXPECT_EQ(bytes("17"), Bytes{17});
  EXPECT_EQ(bytes("17B"), Bytes{17});
}

TEST(BytesTest, CapitalsAndBlanksDoNotMatter) {
  EXPECT_EQ(bytes(" 64 mib "), Bytes{64} << 20);
  EXPECT_EQ(bytes("2gIb"), Bytes{2} << 30);
}

TEST(BytesTest, FractionsAreTaken) {
  EXPECT_EQ(bytes("1.5GiB"), Bytes{3} << 29);
  EXPECT_EQ(bytes("0.5KiB"), Bytes{512});
}

TEST(BytesTest, TheLargestIsExact) { EXPECT_EQ(bytes("18446744073709551615"), UINT64_MAX); }

TEST(BytesTest, TwoToTheSixtyFourIsTooLarge) {
  for (const char* text :
       {"18446744073709551616", "16777216TiB", "16777216.0TiB", "99999999999999999999999999"}) {
    EXPECT_THAT(complaint_about_bytes(text), HasSubstr("too large"));
  }
}

TEST(BytesTest, WhatIsNoSizeIsRefused) {
  for (const char* text : {"", "MiB", "64 elephants", "-1", "1..5MiB", "1e3", "0x10", "64MiB/s",
                           "nan", "inf", ".", "64 Mi B"}) {
    EXPECT_THAT(complaint_about_bytes(text), HasSubstr("not a size")) << text;
  }
}

TEST(BytesTest, WhatIsWrittenReadsBackTheSame) {
  for (const Bytes value :
       {Bytes{0}, Bytes{1}, Bytes{1000}, Bytes{1024}, Bytes{3} << 29, Bytes{1} << 40, UINT64_MAX}) {
    EXPECT_EQ(bytes(format_bytes(value).c_str()), value);
  }
  EXPECT_EQ(format_bytes(Bytes{256} << 20), "256MiB");
}

TEST(DurationTest, EveryUnitIsTaken) {
  EXPECT_EQ(duration("7ns"), std::chrono::nanoseconds(7));
  EXPECT_EQ(duration("7us"), std::chrono::microseconds(7));
  EXPECT_EQ(duration("300ms"), std::chrono::milliseconds(300));
  EXPECT_EQ(duration("2s"), std::chrono::seconds(2));
  EXPECT_EQ(duration("5m"), std::chrono::minutes(5));
  EXPECT_EQ(duration("5min"), std::chrono::minutes(5));
  EXPECT_EQ(duration("3h"), std::chrono::hours(3));
  EXPECT_EQ(duration("2d"), std::chrono::hours(48));
  EXPECT_EQ(duration("0.3s"), std::chrono::milliseconds(300));
  EXPECT_EQ(duration("0s"), std::chrono::seconds(0));
}

TEST(DurationTest, ANumberWithoutUnitIsRefused) {
  for (const char* text : {"2", "", "s", "two seconds", "-2s", "2 s 3"}) {
    EXPECT_THAT(complaint_about_duration(text), HasSubstr("not a time")) << text;
  }
}

TEST(DurationTest, LongerThanACenturyIsRefused) {
  EXPECT_THAT(complaint_about_duration("36601d"), HasSubstr("too long"));
  EXPECT_THAT(complaint_about_duration("9223372036854775808ns"), HasSubstr("too long"));
  EXPECT_THAT(complaint_about_duration("99999999999999999999s"), HasSubstr("too long"));
}

TEST(DurationTest, WhatIsWrittenReadsBackTheSame) {
  for (const Duration value :
       {Duration(0), Duration(1), Duration(1'500'000), Duration(std::chrono::minutes(5))}) {
    EXPECT_EQ(duration(format_duration(value).c_str()), value);
  }
  EXPECT_EQ(format_duration(std::chrono::minutes(5)), "5m");
  EXPECT_EQ(format_duration(std::chrono::seconds(90)), "90s");
}

}  // namespace
}  // namespace kvshim::config
