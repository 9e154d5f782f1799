#include "text/pattern_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "text/pattern.h"

namespace kvshim::text {
namespace {

using testing::HasSubstr;

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

TEST(PatternCostTest, RepetitionsThatMultiplyAreRefused) {
  for (const char* expression :
       {"((a{1,200}){1,200}){1,200}", "(((a{1,30}){1,30}){1,30}){1,30}", "a{200}{200}{200}",
        "a{32767}", "a{,2000}", "a{2000,}", "a++++++++++++++++++++",
        "((((((((((a+)+)+)+)+)+)+)+)+)+", "[a]]{999}{9}", "(a{600}|b{600})",
        "a{99999999999999999999}", "\\(a{30}{40}", "x{40}(b(c|d{40}){40})"}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("more than 1000 copies")) << expression;
  }
  EXPECT_THAT(excess_in(repeated("a?", 1500)), HasSubstr("more than 1000 copies"));
}

TEST(PatternCostTest, ManyAnchorsAreRefused) {
  for (const std::string& expression :
       {repeated(R"(\b)", 100), repeated("^", 1000), repeated("(^|$)", 60), repeated(R"(\<)", 17),
        repeated(R"(\>)", 17), repeated(R"(\B)", 17), repeated(R"(\`)", 17), repeated(R"(\')", 17),
        std::string("(^a){17}"), std::string("(((($a)+)+)+)+b|^c|^d")}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("more than 16 anchors")) << expression;
  }
  EXPECT_EQ(excess_in(repeated(R"(\b)", 16)), "");
  EXPECT_EQ(excess_in(repeated(R"([\b^$]\^\$)", 100)), "");
  EXPECT_THAT(excess_in(repeated(R"(\b)", 16) + repeated("a?", 180)), HasSubstr("anchors times"));
}

TEST(PatternCostTest, RepetitionsOfWhatMayBeEmptyAreRefused) {
  for (const std::string& expression :
       {std::string(R"(((^|$|\b|\B)x?){16})"), std::string(R"((((^|$|\b|\B)x?)+)+)"),
        repeated("(a*|b*)+", 20), "(" + std::string(4000, '|') + ")*", std::string("(a*)*"),
        std::string("(a?){2}"), std::string("(a|){1,}"), std::string("a**"), std::string("(^|$)+"),
        std::string("(a{0,3}){2,3}"), std::string("((a?)(b*))+"), std::string("(()|a)*")}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("may be empty and holds")) << expression;
  }
  for (const char* expression : {"(a*b)*", "(a*)?", ".*?", "(a?){1}", "(a|b)*", "()*", "(^a)*"}) {
    EXPECT_EQ(excess_in(expression), "") << expression;
  }
}

TEST(PatternCostTest, ManyPartsThatMayBeEmptyAreRefused) {
  for (const std::string& expression :
       {repeated("()", 900), repeated("a?", 400), repeated("(|)", 450), repeated("a*", 201),
        repeated("a|", 201), repeated("a+", 201), std::string("a{0,201}"), std::string("a{9,300}"),
        std::string("(a|b|c){101}"), std::string("(a?b){201}")}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("more than 200 alternatives")) << expression;
  }
  EXPECT_NE(excess_in(repeated("()", 2000)), "");
  EXPECT_NE(excess_in(repeated("a?", 999)), "");
  EXPECT_NE(excess_in(repeated("(|)", 1300)), "");
  EXPECT_EQ(excess_in(repeated("a*", 200)), "");
}

// glibc takes "\0" for a digit there.
TEST(PatternCostTest, StrangeIntervalsAreRefused) {
  for (const char* expression : {R"((a{1\0\0\0}){1\0\0\0})", "a{x}", "a{1", "a{1,2", "a{}",
                                 "a{1,2,3}", "a{ 1}", "a{", R"(a{1\,2})", R"(a{1\})"}) {
    EXPECT_THAT(excess_in(expression), HasSubstr("not followed by numbers")) << expression;
  }
  for (const char* expression : {R"(a\{x\})", "a[{]x", "a{3}", "a{3,}", "a{,3}", "a{1,3}", "a}"}) {
    EXPECT_EQ(excess_in(expression), "") << expression;
    EXPECT_TRUE(Pattern::compile(expression, nullptr).has_value()) << expression;
  }
}

// In a UTF-8 locale all its bytes are copied.
TEST(PatternCostTest, ARepeatedCharacterCountsWithAllItsBytes) {
  EXPECT_THAT(excess_in("\xF0\x9F\x98\x80{300}"), HasSubstr("more than 1000 copies"));
  EXPECT_EQ(excess_in("\xF0\x9F\x98\x80{200}"), "");
}

TEST(PatternCostTest, IsQuick) {
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string& expression :
       {std::string(R"(((^|$|\b|\B)x?){16})"), std::string(R"((((^|$|\b|\B)x?)+)+)"),
        repeated("(a*|b*)+", 20), repeated(R"(\b)", 100), repeated("^", 1000),
        repeated("(^|$)", 60), "(" + std::string(4000, '|') + ")*",
        std::string(R"((a{1\0\0\0}){1\0\0\0})"), repeated("()", 2000), repeated("a?", 999),
        repeated("(|)", 1300)}) {
    EXPECT_FALSE(Pattern::compile(expression, nullptr).has_value()) << expression;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(500));
}

TEST(PatternCostTest, WhatPeopleWriteIsAccepted) {
  std::string words = "word";
  for (int i = 1; i < 150; ++i) words += "|word" + std::to_string(i);
  for (const std::string& expression : std::vector<std::string>{
           words, "(" + words + ")", "^(" + words + ")$", R"(make_kv@warn)",
           "_allocate_kv_cache_tensors", "^vllm serve .*(embedding|rerank)$", "(a|b|c)+x?", ".*",
           "(foo)?bar", R"(at::Tensor \{anon\}::f\(\)\+)",
           R"(^/opt/(lib|lib64)/.*\.so(\.[0-9]+)*$)",
           R"((^|[ /])vllm( |$)|vllm\.entrypoints|VLLM::)",
           R"(^(at::(cuda::detail::)?)?(OffsetCalculator|IntDivider)<.*>$)",
           R"(\bkv_?cache\b|\bpool\b)", R"(^[^ ]*kv_?cache[^ ]* [^ ]*/v[0-9]+/)"}) {
    std::string complaint;
    EXPECT_TRUE(Pattern::compile(expression, &complaint).has_value()) << complaint;
  }
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
