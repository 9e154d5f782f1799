#include "text/pattern_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "text/pattern.h"

namespace kvshim::text {
namespace {

using testing::HasSubstr;

TEST(PatternCostTest, RepetitionsThatMultiplyAreRefused) {
  for (const char* expression :
       {"((a{1,200}){1,200}){1,200}", "(((a{1,30}){1,30}){1,30}){1,30}", "a{200}{200}{200}",
        "a{32767}", "a{,2000}", "a{2000,}", "a++++++++++++++++++++",
        "((((((((((a+)+)+)+)+)+)+)+)+)+", "[a]]{999}{9}", "(a{600}|b{600})",
        "a{99999999999999999999}", "\\(a{30}{40}", "x{40}(b(c|d{40}){40})"}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("more than 1000 copies")) << expression;
  }
  EXPECT_THAT(excess_in([] {
                std::string text;
                for (int i = 0; i < 1500; ++i) text += "a?";
                return text;
              }()),
              HasSubstr("more than 1000 copies"));
}

TEST(PatternCostTest, BackReferencesAreRefused) {
  EXPECT_THAT(excess_in(R"((.*)(.*)(.*)(.*)\1\2\3\4zz)"), HasSubstr("back reference"));
  EXPECT_THAT(excess_in(R"([[.].]]\1)"), HasSubstr("back reference"));
  EXPECT_THAT(excess_in(R"([]]\9)"), HasSubstr("back reference"));
}

// The host's stack may be small.
TEST(PatternCostTest, DeepGroupsAreRefused) {
  EXPECT_EQ(excess_in(std::string(30, '(') + "a" + std::string(30, ')')), "");
  EXPECT_THAT(excess_in(std::string(31, '(')), HasSubstr("nested"));
  EXPECT_THAT(excess_in(std::string(4000, '(')), HasSubstr("nested"));
}

TEST(PatternCostTest, WhatOnlyLooksSoIsNot) {
  for (const char* expression :
       {"", R"([\1])", R"([]\1]x)", R"([^]\1]x)", R"(\\1)", R"(a\{900}\{900})", "[{900}]{900}",
        "[[:alpha:]]+\\.so(\\.[0-9]{1,3})*", "a{,5}b{5,}", "a}{200}", "[(]{9}[(]{9}", ")b{3}",
        "_allocate_kv_cache|(^|/)vllm/v[0-9]+/", "a{1000}"}) {
    EXPECT_EQ(excess_in(expression), "") << expression;
    std::string complaint;
    EXPECT_TRUE(Pattern::compile(expression, &complaint).has_value()) << complaint;
  }
}

TEST(PatternCostTest, PatternsSayIt) {
  std::string complaint;
  EXPECT_FALSE(Pattern::compile("((a{1,200}){1,200}){1,200}", &complaint).has_value());
  EXPECT_THAT(complaint, HasSubstr("does not compile: its repetitions come to more than"));
  EXPECT_FALSE(Pattern::compile(R"((a)\1)", &complaint).has_value());
  EXPECT_THAT(complaint, HasSubstr("does not compile: it has a back reference"));
}

}  // namespace
}  // namespace kvshim::text
