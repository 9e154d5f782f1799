// kvwrap as a command: its options, and that the rest is the command's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>

#include "tests/kvwrap/running.h"

namespace kvshim::kvwrap {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

TEST(InvocationTest, TheExitCodeIsTheCommands) {
  EXPECT_EQ(run_kvwrap({"true"}).code(), 0);
  EXPECT_EQ(run_kvwrap({"false"}).code(), 1);
  EXPECT_EQ(run_kvwrap({"sh", "-c", "exit 77"}).code(), 77);
}

TEST(InvocationTest, SignalsAreTheCommands) {
  EXPECT_EQ(run_kvwrap({"sh", "-c", "kill -TERM $$"}).code(), -SIGTERM);
  EXPECT_EQ(run_kvwrap({"sh", "-c", "kill -KILL $$"}).code(), -SIGKILL);
}

TEST(InvocationTest, TheProcessIsTheCommands) {
  const Outcome outcome = run_kvwrap({"sh", "-c", "echo $$"});
  EXPECT_EQ(outcome.output, std::to_string(outcome.process) + "\n");
}

TEST(InvocationTest, SaysNothingWhenAllIsWell) { EXPECT_EQ(run_kvwrap({"true"}).errors, ""); }

TEST(InvocationTest, LeavesNoDescriptorOpen) {
  const std::string list = "ls /proc/self/fd | wc -l";
  EXPECT_EQ(run_kvwrap({"sh", "-c", list}).output, run_program({"/bin/sh", "-c", list}).output);
}

TEST(InvocationTest, OptionsAfterTheCommandAreTheCommands) {
  const Outcome outcome = run_kvwrap(
      {"--log-level", "error", "echo", "--set", "a=b", "--help", "-x", "--", "--version"});
  EXPECT_EQ(outcome.output, "--set a=b --help -x -- --version\n");
}

TEST(InvocationTest, TwoDashesEndItsOwnOptions) {
  EXPECT_EQ(run_kvwrap({"--", "echo", "x"}).output, "x\n");
  EXPECT_EQ(run_kvwrap({"--set", "status=no", "--", "echo", "--set"}).output, "--set\n");
}

TEST(InvocationTest, HelpAndVersionAreNoErrors) {
  const Outcome help = run_kvwrap({"--help"});
  EXPECT_EQ(help.code(), 0);
  for (const char* option : {"--config", "--set", "--log-level", "--help", "--version",
                             "--print-env", "kvwrap [options] <command>"}) {
    EXPECT_THAT(help.output, HasSubstr(option));
  }
  const Outcome version = run_kvwrap({"--version"});
  EXPECT_EQ(version.code(), 0);
  EXPECT_EQ(version.output, "kvwrap " KVSHIM_VERSION "\n");
}

TEST(InvocationTest, MistakesInItsOwnOptionsAreToldAndNothingRuns) {
  const std::vector<std::vector<std::string>> mistakes = {
      {},
      {"--nonsense", "echo", "ran"},
      {"--config", "/no/such/file", "echo", "ran"},
      {"--config"},
      {"--set", "echo"},
      {"--set", "idel_timeout=1s", "echo", "ran"},
      {"--set", "min_size=0", "echo", "ran"},
      {"--set", "min_size=1GiB\nstatus=no", "echo", "ran"},
      {"--log-level", "loud", "echo", "ran"},
  };
  for (const auto& arguments : mistakes) {
    const Outcome outcome = run_kvwrap(arguments);
    EXPECT_EQ(outcome.code(), 2) << testing::PrintToString(arguments) << outcome.errors;
    EXPECT_EQ(outcome.output, "");
    EXPECT_THAT(outcome.errors, StartsWith("kvwrap: "));
  }
}

TEST(InvocationTest, SettingsReachTheCommandInOrder) {
  const Outcome outcome =
      run_kvwrap({"--set", "min_size=1GiB", "--log-level", "debug", "--set=status=no", KVWRAP,
                  "--set", "min_size=2GiB", "printenv", "KVSHIM_SET"});
  EXPECT_EQ(outcome.output, "min_size=1GiB\nstatus=no\nlog_level=debug\nmin_size=2GiB\n");
}

TEST(InvocationTest, TheConfigurationFileIsPassedAsAnAbsolutePath) {
  const TemporaryFolder folder;
  folder.write("my.toml", "status = false\n");
  const Outcome outcome = run_program(
      {"/bin/sh", "-c",
       "cd " + folder.path() + " && exec " KVWRAP " --config my.toml printenv KVSHIM_CONFIG"});
  EXPECT_EQ(outcome.output, folder.path() + "/my.toml\n");
}

TEST(InvocationTest, AWrongConfigurationIsToldWithItsPlaceAndTheCommandRuns) {
  const TemporaryFolder folder;
  const std::string broken = folder.write("broken.toml", "enabled = = true\n");
  Outcome outcome = run_kvwrap({"--config", broken, "echo", "ran"});
  EXPECT_EQ(outcome.output, "ran\n");
  EXPECT_EQ(outcome.code(), 0);
  EXPECT_THAT(outcome.errors, StartsWith("kvwrap: " + broken + ":1:11: not TOML"));

  const std::string mistyped = folder.write("mistyped.toml", "\nidel_timeout = \"2s\"\n");
  outcome = run_kvwrap({"echo", "ran"}, {{"KVSHIM_CONFIG", mistyped}});
  EXPECT_EQ(outcome.output, "ran\n");
  EXPECT_THAT(outcome.errors,
              AllOf(StartsWith("kvwrap: " + mistyped + ":2:1: "), HasSubstr("\"idle_timeout\"?")));
}

TEST(InvocationTest, WhatIsNoFileIsToldAndNeverWaitedFor) {
  const TemporaryFolder folder;
  const std::string fifo = folder.path() + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  Outcome outcome = run_kvwrap({"--config", fifo, "echo", "ran"});
  EXPECT_EQ(outcome.output, "ran\n");
  EXPECT_THAT(outcome.errors,
              AllOf(StartsWith("kvwrap: " + fifo + ": can't be read (not a regular file)"),
                    HasSubstr("the defaults hold\n")));
  outcome = run_kvwrap(
      {"--set", "profiles=" + fifo, "--set", "log_file=" + folder.path(), "echo", "ran"});
  EXPECT_EQ(outcome.output, "ran\n");
  EXPECT_THAT(outcome.errors,
              AllOf(HasSubstr("profiles " + fifo + " can't be read (not a regular file)"),
                    HasSubstr("log_file " + folder.path() + " can't be opened (Is a directory)")));
}

TEST(InvocationTest, CommandsThatCannotRunAnswerAsShellsDo) {
  Outcome outcome = run_kvwrap({"no-such-command-anywhere"});
  EXPECT_EQ(outcome.code(), 127);
  EXPECT_EQ(outcome.errors, "kvwrap: no-such-command-anywhere: not found\n");
  outcome = run_kvwrap({"/etc/passwd"});
  EXPECT_EQ(outcome.code(), 126);
  EXPECT_THAT(outcome.errors, HasSubstr("Permission denied"));
}

TEST(InvocationTest, ScriptsWithoutAnInterpreterLineRun) {
  const TemporaryFolder folder;
  const std::string script = folder.write("script", "echo from the script\n");
  ASSERT_EQ(run_program({"/bin/chmod", "+x", script}).code(), 0);
  EXPECT_EQ(run_kvwrap({script}).output, "from the script\n");
}

TEST(InvocationTest, AShellCanTakeTheVariablesInstead) {
  const Outcome outcome =
      run_program({"/bin/sh", "-c",
                   "eval \"$(" KVWRAP " --set min_size=1GiB --log-level debug --print-env)\"; "
                   "printenv LD_PRELOAD; printenv KVSHIM_SET"});
  EXPECT_EQ(outcome.output, GOOD_LIBRARY "\nmin_size=1GiB\nlog_level=debug\n");
}

}  // namespace
}  // namespace kvshim::kvwrap
