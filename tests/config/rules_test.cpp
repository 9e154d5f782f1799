#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/config/loaded_text.h"

namespace kvshim::config {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(RulesTest, AllPartsAreRead) {
  const Loaded loaded = load_for(R"([[rules]]
action = "allow"
call_site = "_allocate_kv_cache"
min_size = "1GiB"
max_size = "80GiB"
role = "kv"
[[rules]]
action = "deny"
)");
  EXPECT_THAT(loaded.problems, IsEmpty());
  ASSERT_EQ(loaded.options.rules.size(), 2u);
  const RuleOption& first = loaded.options.rules[0];
  EXPECT_TRUE(first.allow);
  EXPECT_EQ(first.call_site, "_allocate_kv_cache");
  EXPECT_EQ(first.min_size, Bytes{1} << 30);
  EXPECT_EQ(first.max_size, Bytes{80} << 30);
  EXPECT_EQ(first.role, "kv");
  EXPECT_EQ(first.source, "test.toml:1");
  const RuleOption& second = loaded.options.rules[1];
  EXPECT_FALSE(second.allow);
  EXPECT_EQ(second.max_size, UINT64_MAX);
  EXPECT_EQ(second.source, "test.toml:7");
}

TEST(RulesTest, APatternThatDoesNotCompileLosesItsRuleOnly) {
  const Loaded loaded = load_for(R"([[rules]]
action = "allow"
call_site = "(unclosed"
[[rules]]
action = "deny"
call_site = "fine"
)");
  EXPECT_THAT(loaded.problems, Contains(AllOf(HasSubstr("test.toml:3:13: rules.call_site: "),
                                              HasSubstr("\"(unclosed\" does not compile"))));
  ASSERT_EQ(loaded.options.rules.size(), 1u);
  EXPECT_EQ(loaded.options.rules[0].call_site, "fine");
}

TEST(RulesTest, ARuleWithAnyWrongPartIsLeftOut) {
  for (const char* part :
       {"action = \"permit\"", "action = 1", "min_size = \"x\"\naction = \"deny\"",
        "max_size = 0\naction = \"deny\"", "role = 3\naction = \"deny\"", "call_site = \"x\"",
        "actoin = \"allow\"", "action = \"allow\"\nmin_size = \"2GiB\"\nmax_size = \"1GiB\"",
        "action = \"allow\"\nmin_size = -1", "action = \"allow\"\ncall_site = 7"}) {
    const Loaded loaded = load_for(std::string("[[rules]]\n") + part + "\n");
    EXPECT_THAT(loaded.options.rules, IsEmpty()) << part;
    EXPECT_THAT(loaded.problems, Contains(HasSubstr("the rule is not used"))) << part;
  }
}

TEST(RulesTest, AMistakeIsOneLine) {
  EXPECT_THAT(load_for("[[rules]]\naction = \"allow\"\ncall_site = \"(a{1,99}){1,99}\"\n").problems,
              testing::ElementsAre(
                  "test.toml:3:13: rules.call_site: the pattern \"(a{1,99}){1,99}\" does not "
                  "compile: its repetitions come to more than 1000 copies; the rule is not used"));
  EXPECT_THAT(load_for("[[rules]]\naction = \"allow\"\ncall_site = '(a)\\1'\n").problems,
              testing::ElementsAre(HasSubstr("it has a back reference")));
}

TEST(RulesTest, RulesMustBeSections) {
  EXPECT_THAT(load_for("rules = 3").problems, Contains(HasSubstr("expected [[rules]] sections")));
  EXPECT_THAT(load_for("rules = [1]").problems, Contains(HasSubstr("expected [[rules]] sections")));
}

}  // namespace
}  // namespace kvshim::config
