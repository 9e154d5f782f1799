#include "tools/kvwrap/preload_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kvwrap/running.h"

namespace kvshim::kvwrap {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(PreloadListTest, SplitsAtSpacesAndColons) {
  EXPECT_THAT(split_preload_list("/a.so /b.so:c.so"), ElementsAre("/a.so", "/b.so", "c.so"));
  EXPECT_THAT(split_preload_list(" ::/a.so: "), ElementsAre("/a.so"));
  EXPECT_THAT(split_preload_list(""), IsEmpty());
}

TEST(PreloadListTest, TheLibraryComesFirstAndOthersStayInOrder) {
  EXPECT_EQ(with_library_first("", "/x/libkvshim.so"), "/x/libkvshim.so");
  EXPECT_EQ(with_library_first("/a.so /b.so", "/x/libkvshim.so"), "/x/libkvshim.so:/a.so:/b.so");
}

TEST(PreloadListTest, NeverTwiceNorBesideAnotherBuilds) {
  EXPECT_EQ(with_library_first("/x/libkvshim.so", "/x/libkvshim.so"), "/x/libkvshim.so");
  EXPECT_EQ(with_library_first("/a.so:/x/libkvshim.so:/b.so", "/x/libkvshim.so"),
            "/x/libkvshim.so:/a.so:/b.so");
  EXPECT_EQ(with_library_first("/other/libkvshim.so", "/x/libkvshim.so"), "/x/libkvshim.so");
  EXPECT_EQ(with_library_first("/x/mine.so", "/x/mine.so"), "/x/mine.so");
  EXPECT_EQ(with_library_first("/x/notlibkvshim.so", "/x/libkvshim.so"),
            "/x/libkvshim.so:/x/notlibkvshim.so");
}

TEST(PreloadListTest, PathsThatTheLoaderWouldSplitDoNotFit) {
  EXPECT_TRUE(fits_in_preload_list("/usr/lib/libkvshim.so"));
  EXPECT_FALSE(fits_in_preload_list("/my files/libkvshim.so"));
  EXPECT_FALSE(fits_in_preload_list("/a:b/libkvshim.so"));
  EXPECT_FALSE(fits_in_preload_list(""));
}

TEST(PreloadListTest, TheCommandSeesItInFrontOfItsOwn) {
  const Outcome outcome =
      run_kvwrap({"printenv", "LD_PRELOAD"}, {{"LD_PRELOAD", "libm.so.6 libdl.so.2"}});
  EXPECT_EQ(outcome.output, std::string(GOOD_LIBRARY) + ":libm.so.6:libdl.so.2\n");
}

TEST(PreloadListTest, KvwrapInsideKvwrapDoesNotDoubleIt) {
  const Outcome outcome = run_kvwrap({KVWRAP, "printenv", "LD_PRELOAD"});
  EXPECT_EQ(outcome.output, GOOD_LIBRARY "\n");
}

TEST(PreloadListTest, TheLibraryIsReallyLoadedIntoTheCommand) {
  const Outcome outcome = run_kvwrap({"grep", "-c", GOOD_LIBRARY, "/proc/self/maps"});
  EXPECT_EQ(outcome.code(), 0) << outcome.errors;
  EXPECT_NE(outcome.output, "0\n");
}

}  // namespace
}  // namespace kvshim::kvwrap
