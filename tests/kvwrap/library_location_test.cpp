#include "tools/kvwrap/library_location.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/kvwrap/running.h"

namespace kvshim::kvwrap {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;

/// kvwrap at `program` and the library at `library` under a folder of that name.
std::string preload_seen_from(const std::string& program, const std::string& library,
                              const std::string& folder_name, Outcome* outcome) {
  const TemporaryFolder folder(folder_name);
  const fs::path kvwrap = fs::path(folder.path()) / program;
  const fs::path target = fs::path(folder.path()) / library;
  fs::create_directories(kvwrap.parent_path());
  fs::create_directories(target.parent_path());
  fs::copy_file(KVWRAP, kvwrap);
  fs::copy_file(GOOD_LIBRARY, target);
  *outcome = run_program({kvwrap.string(), "printenv", "LD_PRELOAD"}, {{"KVSHIM_LIBRARY", ""}});
  std::string seen = outcome->output;
  const std::size_t place = seen.find(folder.path());
  if (place != std::string::npos) seen.erase(place, folder.path().size());
  return seen;
}

TEST(LibraryLocationTest, FoundInAnInstallPrefix) {
  Outcome outcome;
  EXPECT_EQ(preload_seen_from("bin/kvwrap", "lib/libkvshim.so", "kvshim-prefix", &outcome),
            "/lib/libkvshim.so\n")
      << outcome.errors;
}

TEST(LibraryLocationTest, FoundInABuildTree) {
  Outcome outcome;
  EXPECT_EQ(
      preload_seen_from("tools/kvwrap/kvwrap", "preload/libkvshim.so", "kvshim-build", &outcome),
      "/preload/libkvshim.so\n")
      << outcome.errors;
}

TEST(LibraryLocationTest, FoundBesideKvwrap) {
  Outcome outcome;
  EXPECT_EQ(preload_seen_from("kvwrap", "libkvshim.so", "kvshim-flat", &outcome), "/libkvshim.so\n")
      << outcome.errors;
}

TEST(LibraryLocationTest, APathThatThePreloadCannotNameIsTold) {
  Outcome outcome;
  preload_seen_from("bin/kvwrap", "lib/libkvshim.so", "kvshim with spaces", &outcome);
  EXPECT_EQ(outcome.code(), 126);
  EXPECT_THAT(outcome.errors, HasSubstr("a space or a colon"));
}

TEST(LibraryLocationTest, AnAbsentLibraryIsToldWithTheRemedy) {
  const TemporaryFolder folder;
  fs::copy_file(KVWRAP, folder.path() + "/kvwrap");
  Outcome outcome = run_program({folder.path() + "/kvwrap", "true"}, {{"KVSHIM_LIBRARY", ""}});
  EXPECT_EQ(outcome.code(), 126);
  EXPECT_THAT(outcome.errors, HasSubstr("set KVSHIM_LIBRARY"));
  outcome = run_kvwrap({"true"}, {{"KVSHIM_LIBRARY", "/no/such/library.so"}});
  EXPECT_EQ(outcome.code(), 126);
  EXPECT_THAT(outcome.errors, HasSubstr("KVSHIM_LIBRARY names /no/such/library.so"));
}

TEST(LibraryLocationTest, PlacesAreAbsolute) {
  for (const std::string& place : library_places("/prefix/bin")) {
    EXPECT_EQ(place.front(), '/');
    EXPECT_EQ(place.find(".."), std::string::npos);
  }
  EXPECT_THAT(library_places("/prefix/bin"), Contains("/prefix/lib/libkvshim.so"));
}

}  // namespace
}  // namespace kvshim::kvwrap
