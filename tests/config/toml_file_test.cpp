#include "config/toml_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>

#include "tests/config/loaded_text.h"

namespace kvshim::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

TEST(TomlFileTest, AnEmptyFileMeansTheDefaults) {
  const Loaded loaded = load_for("");
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.source, "test.toml");
  EXPECT_EQ(loaded.options.idle_timeout, Options().idle_timeout);
  EXPECT_TRUE(loaded.options.enabled);
}

TEST(TomlFileTest, EveryKindOfOptionIsRead) {
  const Loaded loaded = load_for(R"(
enabled = false
min_size = "1GiB"
arena_size = 1073741824
idle_timeout = "300ms"
contents = "disposable"
read_ahead_share = 0.5
log_level = "debug"
log_file = "/var/log/kvshim.log"
)");
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_FALSE(loaded.options.enabled);
  EXPECT_EQ(loaded.options.min_size, Bytes{1} << 30);
  EXPECT_EQ(loaded.options.arena_size, Bytes{1} << 30);
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::milliseconds(300));
  EXPECT_EQ(loaded.options.contents, Contents::kDisposable);
  EXPECT_EQ(loaded.options.read_ahead_share, 0.5);
  EXPECT_EQ(loaded.options.log_level, LogLevel::kDebug);
  EXPECT_EQ(loaded.options.log_file, "/var/log/kvshim.log");
}

TEST(TomlFileTest, ASyntaxErrorIsOneLineWithItsPlaceAndNothingIsUsed) {
  const Loaded loaded = load_for("enabled = false\nmin_size = = 3\n");
  ASSERT_EQ(loaded.problems.size(), 1u);
  EXPECT_THAT(loaded.problems[0], StartsWith("test.toml:2:12: not TOML: "));
  EXPECT_EQ(loaded.problems[0].find('\n'), std::string::npos);
  EXPECT_TRUE(loaded.options.enabled);
}

TEST(TomlFileTest, AnUnknownKeySuggestsTheNearest) {
  const Loaded loaded = load_for("\n  idle_timout = \"2s\"\n");
  EXPECT_THAT(loaded.problems,
              ElementsAre("test.toml:2:3: unknown option \"idle_timout\", did you mean "
                          "\"idle_timeout\"?"));
}

TEST(TomlFileTest, AnUnknownTableSuggestsTheNearestToo) {
  const Loaded loaded = load_for("[[proces]]\nenabled = false\n[[rule]]\naction = \"allow\"\n");
  ASSERT_EQ(loaded.problems.size(), 2u);
  EXPECT_THAT(loaded.problems[0], HasSubstr("did you mean \"process\"?"));
  EXPECT_THAT(loaded.problems[1], HasSubstr("did you mean \"rules\"?"));
  EXPECT_TRUE(loaded.options.enabled);
}

TEST(TomlFileTest, AnUnknownKeyThatIsNearNothingIsJustUnknown) {
  EXPECT_THAT(load_for("wallpaper = 1").problems,
              ElementsAre("test.toml:1:1: unknown option \"wallpaper\""));
}

TEST(TomlFileTest, AWrongTypeKeepsTheDefaultAndTheRestHolds) {
  const Loaded loaded = load_for("min_size = true\nidle_timeout = 2\nstatus = false\n");
  EXPECT_THAT(loaded.problems,
              ElementsAre("test.toml:2:16: idle_timeout: expected a time such as \"2s\", got 2",
                          "test.toml:1:12: min_size: expected a size such as \"64MiB\", got true"));
  EXPECT_EQ(loaded.options.min_size, Options().min_size);
  EXPECT_EQ(loaded.options.idle_timeout, Options().idle_timeout);
  EXPECT_FALSE(loaded.options.status);
}

TEST(TomlFileTest, TablesArraysAndDatesAreNoOptions) {
  for (const char* text : {"min_size = []", "[min_size]", "min_size = 2026-11-24"}) {
    const Loaded loaded = load_for(text);
    ASSERT_EQ(loaded.problems.size(), 1u) << text;
    EXPECT_THAT(loaded.problems[0], HasSubstr("expected a size such as \"64MiB\", got a TOML "));
  }
}

TEST(TomlFileTest, SizesOfZeroAndTwoToTheSixtyFourAreRefusedWithTheirPlace) {
  EXPECT_THAT(load_for("min_size = 0").problems,
              ElementsAre("test.toml:1:12: min_size: 0 is too small, the least is 2MiB"));
  EXPECT_THAT(load_for("\narena_size = \"18446744073709551616\"").problems,
              ElementsAre(StartsWith("test.toml:2:14: arena_size: \"18446744073709551616\" is too "
                                     "large")));
  // As a bare number it isn't TOML any more.
  EXPECT_THAT(load_for("min_size = 18446744073709551616").problems,
              ElementsAre(StartsWith("test.toml:1:")));
}

TEST(TomlFileTest, HostileTextsAreReportedAndSurvived) {
  EXPECT_EQ(load_for(std::string(100000, '[')).problems.size(), 1u);
  EXPECT_EQ(load_for("a = " + std::string(100000, '[')).problems.size(), 1u);
  EXPECT_EQ(load_for(std::string("\0\0\0", 3)).problems.size(), 1u);
  EXPECT_EQ(load_for("\xff\xfe").problems.size(), 1u);
  EXPECT_EQ(load_for("min_size = \"" + std::string(50000, '9') + "\"").problems.size(), 1u);
}

// A file that is being written, or hit by a bad disk: anything may come out but
// a crash, and every complaint is one line.
TEST(TomlFileTest, DamagedFilesAreSurvived) {
  const std::string sample = R"(min_size = "1GiB"
[[rules]]
action = "deny"
call_site = "a(b|c)*"
[[process]]
match = { command_line = "x", environment = { A = "^1$" } }
idle_timeout = '2s' # comment
[[process.rules]]
action = "allow"
)";
  const std::string_view bytes = "[]{}=.,'\"\\#\n 019aZ_-+:\x7f\xc3\xff";
  std::mt19937 random(20261124);
  for (int round = 0; round < 3000; ++round) {
    std::string text = sample;
    for (unsigned change = 0; change <= random() % 4; ++change) {
      const std::size_t place = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[place] = bytes[random() % bytes.size()];
          break;
        case 1:
          text.insert(place, 1 + random() % 3, bytes[random() % bytes.size()]);
          break;
        default:
          text.erase(place, random() % 20);
      }
    }
    for (const std::string& problem : load_for(text).problems) {
      EXPECT_THAT(problem, StartsWith("test.toml:")) << text;
      EXPECT_EQ(problem.find('\n'), std::string::npos) << text;
    }
  }
}

}  // namespace
}  // namespace kvshim::config
