#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/config/loaded_text.h"

namespace kvshim::config {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

/// vLLM's pool lives in a spawned child with another title; its parent and
/// kvwrap know the command.
ProcessFacts engine() {
  ProcessFacts facts;
  facts.executables = {"/usr/bin/python3.11", "/usr/bin/python3.11"};
  facts.command_lines = {"VLLM::EngineCore", "/opt/bin/vllm serve model --port 8000",
                         "vllm serve model --port 8000"};
  facts.environment = {{"CUDA_VISIBLE_DEVICES", "0"}, {"EMPTY", ""}};
  return facts;
}

bool matches(const std::string& match) {
  const Loaded loaded = load_for("[[process]]\nmatch = " + match + "\nstatus = false\n", engine());
  EXPECT_THAT(loaded.problems, IsEmpty()) << match;
  return !loaded.options.status;
}

TEST(ProcessSectionsTest, MatchOwnAndAncestorsCommandLines) {
  EXPECT_TRUE(matches(R"({ command_line = "VLLM::EngineCore" })"));
  EXPECT_TRUE(matches(R"({ command_line = "vllm serve" })"));
  EXPECT_FALSE(matches(R"({ command_line = "sglang" })"));
}

TEST(ProcessSectionsTest, MatchExecutables) {
  EXPECT_TRUE(matches(R"({ executable = "/python3[.0-9]*$" })"));
  EXPECT_FALSE(matches(R"({ executable = "llama-server" })"));
}

TEST(ProcessSectionsTest, MatchTheEnvironment) {
  EXPECT_TRUE(matches(R"({ environment = { CUDA_VISIBLE_DEVICES = "^0$" } })"));
  EXPECT_FALSE(matches(R"({ environment = { CUDA_VISIBLE_DEVICES = "^1$" } })"));
  EXPECT_TRUE(matches(R"({ environment = { EMPTY = "" } })"));
  EXPECT_FALSE(matches(R"({ environment = { UNSET = "" } })"));
}

TEST(ProcessSectionsTest, AllConditionsMustHold) {
  EXPECT_TRUE(matches(R"({ executable = "python", command_line = "vllm" })"));
  EXPECT_FALSE(matches(R"({ executable = "python", command_line = "sglang" })"));
  EXPECT_FALSE(
      matches(R"({ command_line = "vllm", environment = { CUDA_VISIBLE_DEVICES = "7" } })"));
}

TEST(ProcessSectionsTest, LaterSectionsWinOverEarlierAndOverTheFile) {
  const Loaded loaded = load_for(R"(
idle_timeout = "1s"
min_size = "1GiB"
[[process]]
match = { command_line = "vllm" }
idle_timeout = "2m"
[[process]]
match = { executable = "python" }
idle_timeout = "3m"
[[process]]
match = { executable = "nothing" }
idle_timeout = "4m"
)",
                                 engine());
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::minutes(3));
  EXPECT_EQ(loaded.options.min_size, Bytes{1} << 30);
}

TEST(ProcessSectionsTest, RulesOfMatchingSectionsComeFirst) {
  const Loaded loaded = load_for(R"(
[[rules]]
action = "deny"
role = "file"
[[process]]
match = { command_line = "vllm" }
[[process.rules]]
action = "allow"
role = "first section, first rule"
[[process.rules]]
action = "allow"
role = "first section, second rule"
[[process]]
match = { command_line = "nothing" }
[[process.rules]]
action = "allow"
role = "never"
[[process]]
match = { command_line = "vllm" }
[[process.rules]]
action = "allow"
role = "last section"
)",
                                 engine());
  EXPECT_THAT(loaded.problems, IsEmpty());
  std::vector<std::string> roles;
  for (const RuleOption& rule : loaded.options.rules) roles.push_back(rule.role);
  EXPECT_THAT(roles, testing::ElementsAre("last section", "first section, first rule",
                                          "first section, second rule", "file"));
}

TEST(ProcessSectionsTest, AConditionThatCannotBeEvaluatedDoesNotHold) {
  for (const char* match :
       {R"({ command_line = "(" })", R"({ command_line = 3 })", R"({ comand_line = "vllm" })",
        R"({ environment = "x" })", R"({ environment = { A = "[" } })",
        R"({ command_line = "vllm", executable = "*(" })", "{}", "3"}) {
    const Loaded loaded =
        load_for(std::string("[[process]]\nmatch = ") + match + "\nstatus = false\n", engine());
    EXPECT_TRUE(loaded.options.status) << match;
    ASSERT_EQ(loaded.problems.size(), 1u) << match;
    EXPECT_THAT(loaded.problems[0], StartsWith("test.toml:2:")) << match;
  }
}

TEST(ProcessSectionsTest, ASectionWithoutMatchIsNotUsed) {
  const Loaded loaded = load_for("[[process]]\nstatus = false\n", engine());
  EXPECT_TRUE(loaded.options.status);
  EXPECT_THAT(loaded.problems, Contains(HasSubstr("the section is not used")));
}

TEST(ProcessSectionsTest, AMistypedConditionSuggestsTheRightOne) {
  const Loaded loaded = load_for("[[process]]\nmatch = { comand_line = \"x\" }\n", engine());
  EXPECT_THAT(loaded.problems, Contains(HasSubstr("did you mean \"command_line\"?")));
}

// kvwrap's check runs for another process than the engine's.
TEST(ProcessSectionsTest, SectionsThatDoNotMatchAreCheckedAllTheSame) {
  const Loaded loaded = load_for(
      "[[process]]\nmatch = { command_line = \"nothing\" }\nmin_size = 0\nidel_timeout = \"1s\"\n",
      engine());
  EXPECT_EQ(loaded.problems.size(), 2u);
}

TEST(ProcessSectionsTest, SectionsMustBeArraysOfTables) {
  EXPECT_THAT(load_for("[process]\nstatus = false\n").problems,
              Contains(HasSubstr("expected [[process]] sections")));
  EXPECT_THAT(load_for("process = [3]\n").problems, Contains(HasSubstr("[[process]] section")));
}

}  // namespace
}  // namespace kvshim::config
