#include "config/suggestion.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace kvshim::config {
namespace {

constexpr std::array<std::string_view, 4> kNames{"idle_timeout", "min_size", "arena_size",
                                                 "status"};

TEST(SuggestionTest, FindsWhatWasMeant) {
  EXPECT_EQ(nearest_name("idle_timout", kNames), "idle_timeout");
  EXPECT_EQ(nearest_name("idel_timeout", kNames), "idle_timeout");
  EXPECT_EQ(nearest_name("minsize", kNames), "min_size");
  EXPECT_EQ(nearest_name("idle-timeout", kNames), "idle_timeout");
}

TEST(SuggestionTest, KeepsQuietAboutWhatIsNearNothing) {
  EXPECT_EQ(nearest_name("colour", kNames), "");
  EXPECT_EQ(nearest_name("", kNames), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x'), kNames), "");
}

TEST(SuggestionTest, ASwapOfNeighboursIsOneEdit) {
  constexpr std::array<std::string_view, 2> kShort{"abcx", "abdc"};
  EXPECT_EQ(nearest_name("abcd", kShort), "abcx");  // both one edit: the first
  constexpr std::array<std::string_view, 2> kOther{"xbcx", "bacd"};
  EXPECT_EQ(nearest_name("abcd", kOther), "bacd");
}

}  // namespace
}  // namespace kvshim::config
