#include "config/option_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace kvshim::config {
namespace {

using testing::HasSubstr;

const OptionEntry& option(std::string_view name) {
  const OptionEntry* entry = find_option(name);
  if (entry == nullptr) ADD_FAILURE() << "no option " << name;
  return *entry;
}

TEST(OptionTableTest, NamesAreUniqueAndInLowerCase) {
  std::set<std::string_view> names;
  for (const OptionEntry& entry : option_table()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_EQ(entry.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string_view::npos);
    EXPECT_FALSE(entry.text.empty());
  }
  EXPECT_EQ(find_option("no_such_option"), nullptr);
}

TEST(OptionTableTest, EveryDefaultSatisfiesItsOwnLimits) {
  for (const OptionEntry& entry : option_table()) {
    Options options;
    std::string written = entry.as_toml(options);
    if (written.starts_with('"')) written = written.substr(1, written.size() - 2);
    EXPECT_EQ(entry.assign_text(options, written), "") << entry.name << " = " << written;
    EXPECT_EQ(entry.as_toml(options), entry.as_toml(Options())) << entry.name;
  }
}

TEST(OptionTableTest, AWrongTypeIsRefusedForEveryOption) {
  for (const OptionEntry& entry : option_table()) {
    Options options;
    const Scalar wrong = entry.kind == "true or false" ? Scalar(3.5) : Scalar(true);
    EXPECT_THAT(entry.assign(options, wrong), HasSubstr("expected " + std::string(entry.kind)));
    EXPECT_EQ(entry.as_toml(options), entry.as_toml(Options())) << entry.name;
  }
}

TEST(OptionTableTest, ZeroIsRefusedWhereItMakesNoSense) {
  Options options;
  for (const char* name : {"min_size", "arena_size", "read_ahead_max"}) {
    EXPECT_THAT(option(name).assign(options, std::int64_t{0}), HasSubstr("too small")) << name;
    EXPECT_THAT(option(name).assign(options, std::string("0MiB")), HasSubstr("too small")) << name;
  }
  EXPECT_THAT(option("idle_timeout").assign(options, std::string("0s")), HasSubstr("too small"));
  EXPECT_THAT(option("guard_watchdog").assign(options, std::string("0s")), HasSubstr("too small"));
  // Here it does: nothing is parked, nothing kept, nothing brought back ahead.
  EXPECT_EQ(option("host_budget").assign(options, std::int64_t{0}), "");
  EXPECT_EQ(options.host_budget, 0u);
  EXPECT_EQ(option("drop_after").assign(options, std::string("0s")), "");
  EXPECT_EQ(option("restore_time").assign(options, std::string("0s")), "");
}

TEST(OptionTableTest, NegativeAndHugeSizesAreRefused) {
  Options options;
  EXPECT_THAT(option("min_size").assign(options, std::int64_t{-1}), HasSubstr("too small"));
  EXPECT_THAT(option("min_size").assign(options, std::string("18446744073709551616")),
              HasSubstr("too large"));
  EXPECT_THAT(option("arena_size").assign(options, std::string("1000TiB")), HasSubstr("too large"));
  EXPECT_EQ(options.min_size, Options().min_size);
  EXPECT_EQ(options.arena_size, Options().arena_size);
}

TEST(OptionTableTest, AnAmountIsASizeOrAShareOfTheGpu) {
  Options options;
  EXPECT_EQ(option("limit").assign_text(options, "20GiB"), "");
  EXPECT_EQ(options.limit.of(1000), Bytes{20} << 30);
  EXPECT_EQ(option("limit").assign_text(options, "37.5%"), "");
  EXPECT_EQ(options.limit.of(1000), 375u);
  EXPECT_EQ(option("limit").as_toml(options), "\"37.5%\"");
  for (const char* wrong : {"101%", "-1%", "%", "nan%", "many", "5 %"}) {
    EXPECT_NE(option("limit").assign_text(options, wrong), "") << wrong;
  }
  EXPECT_EQ(options.limit.of(1000), 375u);
  EXPECT_EQ(option("limit").assign(options, std::int64_t{4096}), "");
  EXPECT_EQ(options.limit.of(1000), 4096u);
}

TEST(OptionTableTest, APriorityIsAWholeNumberWithinItsBounds) {
  Options options;
  EXPECT_EQ(option("priority").assign_text(options, "-100"), "");
  EXPECT_EQ(options.priority, -100);
  for (const char* wrong : {"101", "-101", "1.5", "high"}) {
    EXPECT_NE(option("priority").assign_text(options, wrong), "") << wrong;
  }
  EXPECT_EQ(options.priority, -100);
}

TEST(OptionTableTest, OnlyTheHostBudgetCanBeAutomatic) {
  Options options;
  options.host_budget = 7;
  EXPECT_EQ(option("host_budget").assign(options, std::string("auto")), "");
  EXPECT_EQ(options.host_budget, UINT64_MAX);
  EXPECT_EQ(option("host_budget").as_toml(options), "\"auto\"");
  EXPECT_NE(option("min_size").assign(options, std::string("auto")), "");
}

TEST(OptionTableTest, ChoicesTakeTheirWordsOnly) {
  Options options;
  EXPECT_EQ(option("contents").assign(options, std::string("disposable")), "");
  EXPECT_EQ(options.contents, Contents::kDisposable);
  EXPECT_EQ(option("memory_view").assign(options, std::string("physical")), "");
  EXPECT_EQ(options.memory_view, MemoryView::kPhysical);
  EXPECT_EQ(option("log_level").assign(options, std::string("off")), "");
  EXPECT_EQ(options.log_level, LogLevel::kOff);
  EXPECT_THAT(option("log_level").assign(options, std::string("loud")),
              HasSubstr("\"debug\", \"info\", \"warning\", \"error\" or \"off\", got \"loud\""));
}

TEST(OptionTableTest, SharesStayBetweenNothingAndAll) {
  Options options;
  EXPECT_EQ(option("read_ahead_share").assign(options, std::int64_t{1}), "");
  EXPECT_EQ(options.read_ahead_share, 1.0);
  EXPECT_THAT(option("read_ahead_share").assign(options, 1.5), HasSubstr("too large"));
  EXPECT_THAT(option("read_ahead_share").assign(options, -0.1), HasSubstr("too small"));
  EXPECT_THAT(option("read_ahead_share").assign_text(options, "nan"), HasSubstr("expected"));
}

TEST(OptionTableTest, FlagsFromTextTakeTheUsualWords) {
  Options options;
  for (const char* no : {"0", "false", "off", "no"}) {
    options.enabled = true;
    EXPECT_EQ(option("enabled").assign_text(options, no), "");
    EXPECT_FALSE(options.enabled) << no;
  }
  for (const char* yes : {"1", "true", "on", "yes"}) {
    options.enabled = false;
    EXPECT_EQ(option("enabled").assign_text(options, yes), "");
    EXPECT_TRUE(options.enabled) << yes;
  }
  EXPECT_THAT(option("enabled").assign_text(options, "maybe"), HasSubstr("expected true or false"));
}

TEST(OptionTableTest, EnvironmentNamesAreTheNamesInCapitals) {
  EXPECT_EQ(environment_name("idle_timeout"), "KVSHIM_IDLE_TIMEOUT");
}

}  // namespace
}  // namespace kvshim::config
