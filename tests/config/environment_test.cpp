#include "config/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "config/option_table.h"
#include "tests/config/loaded_text.h"

namespace kvshim::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(EnvironmentTest, EveryOptionCanComeFromIt) {
  for (const OptionEntry& entry : option_table()) {
    ProcessFacts facts;
    facts.environment = {{environment_name(entry.name), "surely wrong\x01"}};
    const Loaded loaded = load_for("", facts);
    if (entry.kind == "a text in quotes") {
      EXPECT_THAT(loaded.problems, IsEmpty()) << entry.name;
      EXPECT_NE(entry.as_toml(loaded.options), entry.as_toml(Options())) << entry.name;
    } else {
      ASSERT_EQ(loaded.problems.size(), 1u) << entry.name;
      EXPECT_THAT(loaded.problems[0], HasSubstr(environment_name(entry.name) + ": "));
    }
  }
}

TEST(EnvironmentTest, WinsOverTheFileAndItsSections) {
  ProcessFacts facts;
  facts.command_lines = {"engine"};
  facts.environment = {{"KVSHIM_IDLE_TIMEOUT", "9s"}};
  const Loaded loaded = load_for(
      "idle_timeout = \"1s\"\n[[process]]\nmatch = { command_line = \"engine\" }\nidle_timeout = "
      "\"2m\"\n",
      facts);
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::seconds(9));
}

TEST(EnvironmentTest, SetsWinOverTheEnvironmentAndTheLastOneWins) {
  ProcessFacts facts;
  facts.environment = {{"KVSHIM_IDLE_TIMEOUT", "9s"}};
  const Loaded loaded = load_for("", facts, {"idle_timeout=1s", "idle_timeout=300ms"});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::milliseconds(300));
}

TEST(EnvironmentTest, SetsThatAreWrongAreToldAndLeftOut) {
  const Loaded loaded =
      load_for("", {}, {"idle_timeout", "idel_timeout=1s", "min_size=0", "status=no"});
  EXPECT_THAT(loaded.problems,
              ElementsAre("--set idle_timeout: expected name=value",
                          "--set idel_timeout=1s: unknown option \"idel_timeout\", did you mean "
                          "\"idle_timeout\"?",
                          "--set min_size: \"0\" is too small, the least is 2MiB"));
  EXPECT_FALSE(loaded.options.status);
}

TEST(EnvironmentTest, AMistypedVariableIsToldAndOthersAreNot) {
  ProcessFacts facts;
  facts.environment = {{"KVSHIM_IDLE_TIMOUT", "2s"},
                       {"KVSHIM_CONFIG", ""},
                       {"KVSHIM_SIMULATOR_MEMORY", "1GiB"},
                       {"KVSHIM_COMMAND", "x"}};
  EXPECT_THAT(load_for("", facts).problems,
              ElementsAre("KVSHIM_IDLE_TIMOUT: unknown option, did you mean KVSHIM_IDLE_TIMEOUT?"));
}

TEST(EnvironmentTest, DisableTakesAnythingButANo) {
  for (const char* no : {"", "0", "false", "no", "off"}) {
    EXPECT_FALSE(disabled_by({{"KVSHIM_DISABLE", no}})) << no;
  }
  for (const char* yes : {"1", "true", "yes", "please"}) {
    EXPECT_TRUE(disabled_by({{"KVSHIM_DISABLE", yes}})) << yes;
  }
  EXPECT_FALSE(disabled_by({}));
}

TEST(EnvironmentTest, SplitsWhatKvwrapJoined) {
  EXPECT_THAT(split_sets("a=1\nb=2"), ElementsAre("a=1", "b=2"));
  EXPECT_THAT(split_sets("\n\na=1\n"), ElementsAre("a=1"));
  EXPECT_THAT(split_sets(""), IsEmpty());
}

}  // namespace
}  // namespace kvshim::config
