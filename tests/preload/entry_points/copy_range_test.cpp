#include "preload/copy_range.h"

#include <gtest/gtest.h>

namespace kvshim::preload {
namespace {

TEST(CopyRange, AdjoiningRowsAreOneBlock) {
  EXPECT_EQ(touched({.base = 1000, .pitch = 16}, {16, 4, 1}), (ByteRange{1000, 64}));
}

TEST(CopyRange, LastRowEndsWithItsWidth) {
  EXPECT_EQ(touched({.base = 1000, .pitch = 100}, {10, 3, 1}), (ByteRange{1000, 210}));
}

TEST(CopyRange, OffsetsMoveTheStart) {
  EXPECT_EQ(
      touched({.base = 1000, .pitch = 100, .slice_rows = 5, .x = 7, .y = 2, .z = 1}, {10, 3, 2}),
      (ByteRange{1000 + (1 * 5 + 2) * 100 + 7, (1 * 5 + 2) * 100 + 10}));
}

TEST(CopyRange, NoPitchMeansPackedRows) {
  EXPECT_EQ(touched({.base = 1000}, {10, 3, 2}), (ByteRange{1000, 60}));
}

TEST(CopyRange, EmptyExtentTouchesNothing) {
  EXPECT_EQ(touched({.base = 1000, .pitch = 8}, {0, 3, 1}).bytes, 0u);
  EXPECT_EQ(touched({.base = 1000, .pitch = 8}, {8, 0, 1}).bytes, 0u);
  EXPECT_EQ(touched({.base = 1000, .pitch = 8}, {8, 1, 0}).bytes, 0u);
}

TEST(CopyRange, OverflowSaturatesInsteadOfWrapping) {
  EXPECT_EQ(touched({.base = 1000, .pitch = SIZE_MAX / 2}, {8, 9, 1}).bytes, SIZE_MAX);
  // An offset beyond the address space touches nothing rather than low addresses.
  EXPECT_EQ(touched({.base = 1000, .pitch = SIZE_MAX, .y = 2}, {8, 1, 1}).bytes, 0u);
}

}  // namespace
}  // namespace kvshim::preload
