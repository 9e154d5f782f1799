// A library that can't be loaded is a message, and the command isn't started:
// preloaded, it would kill every process of the command.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kvwrap/running.h"

namespace kvshim::kvwrap {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

void expect_misfit(const std::string& library, const std::string& reason) {
  const Outcome outcome = run_kvwrap({"echo", "ran"}, {{"KVSHIM_LIBRARY", library}});
  EXPECT_EQ(outcome.code(), 126);
  EXPECT_EQ(outcome.output, "");
  EXPECT_THAT(outcome.errors,
              AllOf(StartsWith("kvwrap: " + library + " can't be loaded here"), HasSubstr(reason),
                    HasSubstr("run the command without kvwrap")));
}

TEST(MisfitTest, AMissingLibraryItNeedsIsNamed) {
  expect_misfit(NEEDY_LIBRARY, "libkvwrap_needed_library.so: cannot open shared object file");
}

TEST(MisfitTest, ALibraryThatCrashesIsTold) {
  expect_misfit(CRASHING_LIBRARY, "ends with the signal Segmentation fault");
}

// The loader only warns of these and goes on without.
TEST(MisfitTest, WhatIsNoLibraryIsTold) {
  const TemporaryFolder folder;
  expect_misfit(
      folder.write("libkvshim.so", "not an ELF file, but long enough to be read as one\n"),
      "cannot be preloaded");
}

// Another preload's trouble is not ours: the loader tells it, the command runs.
TEST(MisfitTest, AnotherBrokenPreloadDoesNotCount) {
  const Outcome outcome = run_kvwrap({"echo", "ran"}, {{"LD_PRELOAD", "/no/such/other.so"}});
  EXPECT_EQ(outcome.code(), 0);
  EXPECT_EQ(outcome.output, "ran\n");
}

}  // namespace
}  // namespace kvshim::kvwrap
