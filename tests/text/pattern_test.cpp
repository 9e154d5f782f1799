#include "text/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::text {
namespace {

Pattern pattern(const std::string& expression) {
  std::string complaint;
  auto compiled = Pattern::compile(expression, &complaint);
  EXPECT_TRUE(compiled.has_value()) << complaint;
  return *compiled;
}

TEST(PatternTest, IsSearchedAnywhereUnlessAnchored) {
  EXPECT_TRUE(pattern("vllm serve").found_in("/usr/bin/python3 /opt/bin/vllm serve model"));
  EXPECT_FALSE(pattern("^vllm").found_in("python vllm"));
  EXPECT_TRUE(pattern("a|b").found_in("xxb"));
  EXPECT_TRUE(pattern("").found_in("anything"));
}

TEST(PatternTest, SaysWhyItDoesNotCompile) {
  for (const char* expression : {"(", "a[", "*(", "a{2,1}", "[[:nosuch:]]"}) {
    std::string complaint;
    EXPECT_FALSE(Pattern::compile(expression, &complaint).has_value()) << expression;
    EXPECT_THAT(complaint, testing::HasSubstr("does not compile"));
  }
}

TEST(PatternTest, OfNothingIsFoundNowhereAndTheDefaultEverywhere) {
  EXPECT_FALSE(Pattern::of_nothing().found_in(""));
  EXPECT_FALSE(Pattern::of_nothing().found_in("anything"));
  EXPECT_TRUE(Pattern().found_in("anything"));
  EXPECT_TRUE(Pattern().empty());
  EXPECT_EQ(pattern("a|b").expression(), "a|b");
}

TEST(PatternTest, NobodyNeedHearTheComplaint) {
  EXPECT_FALSE(Pattern::compile("(", nullptr).has_value());
}

TEST(PatternTest, RefusesAZeroByteAndAMonster) {
  std::string complaint;
  EXPECT_FALSE(Pattern::compile(std::string("a\0b", 3), &complaint).has_value());
  EXPECT_FALSE(Pattern::compile(std::string(5000, 'a'), &complaint).has_value());
}

// std::regex overflows an ordinary stack here.
TEST(PatternTest, TakesAVeryLongText) {
  EXPECT_TRUE(pattern("^(a|b)*c$").found_in(std::string(1'000'000, 'a') + "c"));
}

TEST(PatternTest, CopiesOutliveTheOriginal) {
  Pattern copy = pattern("x");
  {
    const Pattern original = pattern("abc");
    copy = original;
  }
  EXPECT_TRUE(copy.found_in("xabcx"));
}

}  // namespace
}  // namespace kvshim::text
