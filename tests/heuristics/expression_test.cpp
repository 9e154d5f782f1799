#include "heuristics/expression.h"

#include <gtest/gtest.h>

namespace kvshim::heuristics {
namespace {

std::optional<std::uint32_t> name_of(std::string_view name) {
  if (name == "a") return 0;
  if (name == "grid.x") return 1;
  return std::nullopt;
}

std::optional<std::int64_t> value_of(const std::string& text, std::int64_t a = 0,
                                     std::int64_t grid = 0) {
  std::string error;
  const Expression expression = Expression::compile(text, name_of, &error);
  EXPECT_EQ(error, "") << text;
  return expression.evaluate(
      [&](std::uint32_t index) -> std::optional<std::int64_t> { return index == 0 ? a : grid; });
}

std::string error_of(const std::string& text) {
  std::string error;
  const Expression expression = Expression::compile(text, name_of, &error);
  EXPECT_FALSE(expression.evaluate([](std::uint32_t) { return std::optional<std::int64_t>{1}; }))
      << text << ": a bad expression has no value";
  return error;
}

TEST(Expression, FollowsTheUsualPrecedence) {
  EXPECT_EQ(value_of("1 + 2 * 3"), 7);
  EXPECT_EQ(value_of("(1 + 2) * 3"), 9);
  EXPECT_EQ(value_of("10 - 4 - 3"), 3);
  EXPECT_EQ(value_of("100 / 10 / 2"), 5);
  EXPECT_EQ(value_of("1 + 100 % 48 / 3 * 2"), 3);
  EXPECT_EQ(value_of("(0 - 7) % 4"), -3);
  EXPECT_EQ(value_of("((a - 1) * 64 + 128) * 2", 8), 1152);
  EXPECT_EQ(value_of("a*grid.x", 3, 7), 21);
}

TEST(Expression, HasNoValueWhenItOverflowsOrDividesByZero) {
  EXPECT_EQ(value_of("a * a", std::int64_t{1} << 40), std::nullopt);
  EXPECT_EQ(value_of("a + a", INT64_MAX), std::nullopt);
  EXPECT_EQ(value_of("0 - a - 2", INT64_MAX), std::nullopt);
  EXPECT_EQ(value_of("1 / a", 0), std::nullopt);
  EXPECT_EQ(value_of("a / (0 - 1)", INT64_MIN), std::nullopt);
  EXPECT_EQ(value_of("1 % a", 0), std::nullopt);
  EXPECT_EQ(value_of("a % (0 - 1)", INT64_MIN), std::nullopt);
}

TEST(Expression, BadInputIsNamedWithItsColumn) {
  EXPECT_EQ(error_of("a + "), "\"a + \", column 5: expected a value, found the end");
  EXPECT_EQ(error_of("a * b"), "\"a * b\", column 5: unknown name \"b\"");
  EXPECT_EQ(error_of("(a"), "\"(a\", column 3: expected )");
  EXPECT_EQ(error_of("a)"), "\"a)\", column 2: unexpected character");
  EXPECT_EQ(error_of("a ; a"), "\"a ; a\", column 3: unexpected character");
  EXPECT_EQ(error_of("-1"), "\"-1\", column 1: expected a value");
  EXPECT_EQ(error_of(""), "\"\", column 1: expected a value, found the end");
  EXPECT_NE(error_of("9223372036854775808").find("does not fit"), std::string::npos);
}

TEST(Expression, DeepNestingIsRefusedInsteadOfOverflowingTheStack) {
  EXPECT_NE(error_of(std::string(100000, '(') + "1").find("too deeply nested"), std::string::npos);
  std::string right = "1";
  for (int i = 0; i < 14; ++i) right = "1+(" + right + ")";
  EXPECT_EQ(value_of(right), 15);
  for (int i = 0; i < 10; ++i) right = "1+(" + right + ")";
  EXPECT_NE(error_of(right).find("too deeply nested"), std::string::npos);
}

}  // namespace
}  // namespace kvshim::heuristics
