#include "tools/kvshim/command_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "tools/kvshim/completion_text.h"
#include "tools/kvshim/invocation.h"
#include "tools/kvshim/manual_page.h"

namespace kvshim::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::optional<Invocation> parsed(std::vector<std::string> words, int* code = nullptr) {
  words.insert(words.begin(), "kvshim");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int ignored = 0;
  return parse_invocation(static_cast<int>(arguments.size()), arguments.data(),
                          code != nullptr ? code : &ignored);
}

std::vector<CommandDescription> described() {
  CLI::App app;
  Invocation invocation;
  describe(app, invocation);
  return command_table(app);
}

TEST(Invocation, TakesAnEnginesCommandLineAfterTwoHyphens) {
  const auto invocation =
      parsed({"doctor", "--json", "--", "vllm", "serve", "top", "--enable-sleep-mode", "-q"});
  ASSERT_TRUE(invocation);
  EXPECT_EQ(invocation->command, "doctor");
  EXPECT_TRUE(invocation->json);
  EXPECT_EQ(invocation->wrapped,
            (std::vector<std::string>{"vllm", "serve", "top", "--enable-sleep-mode", "-q"}));
}

TEST(Invocation, TakesNegativePriorities) {
  const auto invocation = parsed({"priority", "7", "-5"});
  ASSERT_TRUE(invocation);
  EXPECT_EQ(invocation->priority, -5);
}

TEST(Invocation, RefusesMistakesWithTwo) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"tops"},
                                             {"limit", "7"},
                                             {"priority", "7", "101"},
                                             {"top", "--interval", "0"},
                                             {"top", "--sort", "colour"},
                                             {"release", "--all", "--pid", "7"},
                                             {"config"},
                                             {"completion", "tcsh"},
                                             {"metrics", "--listen", ":1", "--textfile", "x"}}) {
    int code = 0;
    EXPECT_FALSE(parsed(words, &code));
    EXPECT_EQ(code, 2);
  }
}

TEST(Invocation, NamesTheHelpOfWhatWasGiven) {
  const auto said = [](std::vector<std::string> words) {
    ::testing::internal::CaptureStderr();
    EXPECT_FALSE(parsed(std::move(words)));
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_THAT(said({}), HasSubstr("(see kvshim --help)"));
  EXPECT_THAT(said({"tops"}), HasSubstr("(see kvshim --help)"));
  EXPECT_THAT(said({"limit", "7"}), HasSubstr("(see kvshim limit --help)"));
  EXPECT_THAT(said({"metrics", "--json"}), HasSubstr("(see kvshim metrics --help)"));
  EXPECT_THAT(said({"config"}), HasSubstr("(see kvshim config --help)"));
  EXPECT_THAT(said({"config", "show", "--pd"}), HasSubstr("(see kvshim config show --help)"));
}

TEST(Invocation, TellsAMistakeAsADocumentWhereThatIsAskedFor) {
  const auto printed = [](std::vector<std::string> words) {
    ::testing::internal::CaptureStdout();
    EXPECT_FALSE(parsed(std::move(words)));
    return ::testing::internal::GetCapturedStdout();
  };
  EXPECT_THAT(printed({"limit", "7", "--json"}), HasSubstr("\"name\": \"usage\""));
  EXPECT_EQ(printed({"limit", "7"}), "");
  EXPECT_EQ(printed({"doctor", "--pd", "--", "engine", "--json"}), "");
}

TEST(Invocation, KnowsEveryPartOfConfig) {
  EXPECT_EQ(parsed({"config", "check", "x.toml"})->command, "config check");
  EXPECT_EQ(parsed({"config", "sample"})->command, "config sample");
  EXPECT_EQ(parsed({"config", "show", "--pid", "7"})->command, "config show");
}

TEST(CommandTable, KnowsCommandsOptionsAndValues) {
  const std::vector<CommandDescription> commands = described();
  const auto top = std::find_if(commands.begin(), commands.end(),
                                [](const CommandDescription& one) { return one.name == "top"; });
  ASSERT_NE(top, commands.end());
  const auto sort =
      std::find_if(top->options.begin(), top->options.end(),
                   [](const OptionDescription& option) { return option.names.back() == "--sort"; });
  ASSERT_NE(sort, top->options.end());
  EXPECT_EQ(sort->value.name, "COLUMN");
  EXPECT_THAT(sort->value.choices, Contains("kv"));
}

TEST(ManualPage, NamesEveryCommandAndOption) {
  CLI::App app;
  Invocation invocation;
  describe(app, invocation);
  std::string page = manual_page(app);
  std::erase(page, '\\');
  for (const CommandDescription& command : command_table(app)) {
    if (command.name.empty() || !command.commands.empty()) continue;
    EXPECT_THAT(page, HasSubstr("kvshim " + command.name + "fR"));
    for (const OptionDescription& option : command.options) {
      if (option.names.back() == "--help") continue;
      EXPECT_THAT(page, HasSubstr("fB" + option.names.back() + "fR"));
      EXPECT_THAT(page, HasSubstr(option.text));
    }
  }
}

TEST(Completions, NameEveryCommandInEveryShell) {
  CLI::App app;
  Invocation invocation;
  describe(app, invocation);
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string text = completion_text(app, shell);
    for (const CommandDescription& command : command_table(app)) {
      for (const std::string& below : command.commands)
        EXPECT_THAT(text, HasSubstr(below)) << shell;
    }
  }
}

}  // namespace
}  // namespace kvshim::cli
