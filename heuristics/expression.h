// Small arithmetic of a profile ("(num_heads - 1) * head_stride"), compiled
// once and evaluated at each launch: + - * / % ( ), integers, names. Signed 64-bit
// integers; overflow and division by zero make the result absent.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvshim::heuristics {

class Expression {
 public:
  /// Maps a name to the index of its value, or nothing when it is unknown.
  using Names = std::function<std::optional<std::uint32_t>(std::string_view)>;

  /// Compiles `text`. On an error `*error` says what and at which column (from
  /// 1), and the expression evaluates to nothing.
  static Expression compile(std::string_view text, const Names& names, std::string* error);

  /// `value(index)` gives the value of a name. No allocation, any thread.
  template <class ValueOf>
  std::optional<std::int64_t> evaluate(const ValueOf& value) const {
    std::int64_t stack[kMaxDepth];
    std::size_t depth = 0;
    for (const Step& step : steps_) {
      switch (step.kind) {
        case Step::Kind::kConstant:
          stack[depth++] = step.operand;
          continue;
        case Step::Kind::kName: {
          const std::optional<std::int64_t> named = value(static_cast<std::uint32_t>(step.operand));
          if (!named) return std::nullopt;
          stack[depth++] = *named;
          continue;
        }
        default:
          break;
      }
      --depth;
      if (!apply(step.kind, stack[depth - 1], stack[depth], &stack[depth - 1])) return std::nullopt;
    }
    if (depth != 1) return std::nullopt;
    return stack[0];
  }

 private:
  static constexpr std::size_t kMaxDepth = 16;
  struct Step {
    enum class Kind : std::uint8_t {
      kConstant,
      kName,
      kAdd,
      kSubtract,
      kMultiply,
      kDivide,
      kRemainder
    } kind;
    std::int64_t operand = 0;
  };
  class Compiler;
  static bool apply(Step::Kind kind, std::int64_t left, std::int64_t right, std::int64_t* result);

  std::vector<Step> steps_;  // in postfix order
};

}  // namespace kvshim::heuristics
