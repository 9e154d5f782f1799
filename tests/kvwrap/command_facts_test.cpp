#include "tools/kvwrap/command_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kvwrap/running.h"

namespace kvshim::kvwrap {
namespace {

TEST(CommandFactsTest, ArgumentsAreToldApart) {
  EXPECT_EQ(encode_command({"vllm", "serve", "a b"}),
            "vllm\x1fserve\x1f"
            "a b");
  EXPECT_EQ(encode_command({"one"}), "one");
  EXPECT_EQ(encode_command({"a", "", "b"}),
            "a\x1f\x1f"
            "b");
  EXPECT_EQ(joined_command({"vllm", "serve"}), "vllm serve");
}

TEST(CommandFactsTest, AGiantCommandIsCut) {
  EXPECT_EQ(encode_command({"python", "-c", std::string(200'000, 'x')}).size(), 32u * 1024);
}

TEST(CommandFactsTest, ExecutablesAreFoundAsExecFindsThem) {
  EXPECT_THAT(resolved_executable("sh"), testing::EndsWith("/sh"));
  EXPECT_EQ(resolved_executable("/no/such"), "/no/such");
  EXPECT_EQ(resolved_executable("no-such-program-anywhere"), "no-such-program-anywhere");
}

TEST(CommandFactsTest, ShellsReadTheirWordsBack) {
  const std::string text = "it's \"a\" $HOME `x` \\ \n end";
  const Outcome outcome = run_program({"/bin/sh", "-c", "printf %s " + shell_quoted(text)});
  EXPECT_EQ(outcome.output, text);
}

TEST(CommandFactsTest, TheCommandIsToldWhatItWasStartedAs) {
  const Outcome outcome = run_kvwrap({"bash", "-c", "exec -a renamed printenv KVSHIM_COMMAND"});
  EXPECT_THAT(outcome.output, testing::StartsWith("bash\x1f-c\x1f"));
}

TEST(CommandFactsTest, TheInnerKvwrapsCommandCounts) {
  const Outcome outcome = run_kvwrap({KVWRAP, "printenv", "KVSHIM_COMMAND"});
  EXPECT_EQ(outcome.output, "printenv\x1fKVSHIM_COMMAND\n");
}

// The largest argument that Linux takes still gets through.
TEST(CommandFactsTest, AGiantArgumentStillRuns) {
  const Outcome outcome =
      run_kvwrap({"sh", "-c", "printf %s ${#1}", "sh", std::string(120'000, 'x')});
  EXPECT_EQ(outcome.code(), 0) << outcome.errors;
  EXPECT_EQ(outcome.output, "120000");
}

}  // namespace
}  // namespace kvshim::kvwrap
