#include "tools/kvshim/start_time.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <string>

#include "segment/contents.h"

namespace kvshim::cli {
namespace {

TEST(StartTime, CountsFromTheBoot) {
  BootClock clock;
  clock.boot = 7;
  clock.booted = 1'764'000'000.5;
  EXPECT_EQ(unix_start(clock, 7, 250), 1'764'000'003);
  EXPECT_EQ(unix_start(clock, 7, 249), 1'764'000'002);
}

TEST(StartTime, IsUnknownWithoutTicksOrOfAnotherBoot) {
  BootClock clock;
  clock.boot = 7;
  clock.booted = 1'764'000'000;
  EXPECT_EQ(unix_start(clock, 7, 0), 0);
  EXPECT_EQ(unix_start(clock, 8, 100), 0);
  EXPECT_EQ(unix_start(clock, 7, UINT64_MAX), 0) << "no time that a calendar has";
  EXPECT_EQ(unix_start({}, 0, 100), 0);
}

TEST(StartTime, OfThisProcessIsJustNow) {
  const segment::Identity self = segment::own_identity();
  const std::int64_t start = unix_start(boot_clock(), self.boot, self.start_time);
  const auto now = static_cast<std::int64_t>(std::time(nullptr));
  EXPECT_LE(start, now);
  EXPECT_GT(start, now - 600);
}

TEST(StartTime, IsWrittenInUtcAndInTheUsersZone) {
  EXPECT_EQ(utc_text(1'796'091'164), "2026-12-01T02:12:44Z");
  EXPECT_EQ(utc_text(0), "");
  const char* before = std::getenv("TZ");
  const std::string zone = before != nullptr ? before : "";
  ::setenv("TZ", "CET-1", 1);
  ::tzset();
  EXPECT_EQ(local_text(1'796'091'164), "2026-12-01 03:12:44");
  if (before != nullptr) {
    ::setenv("TZ", zone.c_str(), 1);
  } else {
    ::unsetenv("TZ");
  }
  ::tzset();
  EXPECT_EQ(local_text(0), "");
}

}  // namespace
}  // namespace kvshim::cli
