#include "heuristics/expression.h"

#include <cctype>
#include <cstddef>

namespace kvshim::heuristics {

// Recursive descent; the nesting is bounded, since a profile may be a user's.
class Expression::Compiler {
 public:
  Compiler(std::string_view text, const Names& names) : text_(text), names_(names) {}

  bool run(std::vector<Step>* steps, std::string* error) {
    steps_ = steps;
    bool good = sum(0);
    if (good && (skip_blanks(), at_ != text_.size())) good = fail("unexpected character");
    if (!good && error != nullptr) {
      *error =
          "\"" + std::string(text_) + "\", column " + std::to_string(at_ + 1) + ": " + problem_;
    }
    return good;
  }

 private:
  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  void skip_blanks() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  char peek() {
    skip_blanks();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool push(Step step) {
    const bool is_value = step.kind == Step::Kind::kConstant || step.kind == Step::Kind::kName;
    depth_ = is_value ? depth_ + 1 : depth_ - 1;
    if (depth_ > kMaxDepth) return fail("too deeply nested");
    steps_->push_back(step);
    return true;
  }
  bool sum(std::size_t nesting) {
    if (!product(nesting)) return false;
    for (char next = peek(); next == '+' || next == '-'; next = peek()) {
      ++at_;
      if (!product(nesting)) return false;
      if (!push({next == '+' ? Step::Kind::kAdd : Step::Kind::kSubtract})) return false;
    }
    return true;
  }
  bool product(std::size_t nesting) {
    if (!factor(nesting)) return false;
    for (char next = peek(); next == '*' || next == '/' || next == '%'; next = peek()) {
      ++at_;
      if (!factor(nesting)) return false;
      if (!push({next == '*'   ? Step::Kind::kMultiply
                 : next == '/' ? Step::Kind::kDivide
                               : Step::Kind::kRemainder})) {
        return false;
      }
    }
    return true;
  }
  bool factor(std::size_t nesting) {
    const char next = peek();
    if (next == '(') {
      if (nesting >= kMaxDepth) return fail("too deeply nested");
      ++at_;
      if (!sum(nesting + 1)) return false;
      if (peek() != ')') return fail("expected )");
      ++at_;
      return true;
    }
    if (std::isdigit(static_cast<unsigned char>(next)) != 0) return number();
    if (std::isalpha(static_cast<unsigned char>(next)) != 0 || next == '_') return name();
    return fail(next == '\0' ? "expected a value, found the end" : "expected a value");
  }
  bool number() {
    std::int64_t value = 0;
    while (at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) {
      if (__builtin_mul_overflow(value, std::int64_t{10}, &value) ||
          __builtin_add_overflow(value, std::int64_t{text_[at_] - '0'}, &value)) {
        return fail("the number does not fit into 64 bits");
      }
      ++at_;
    }
    return push({Step::Kind::kConstant, value});
  }
  bool name() {
    const std::size_t begin = at_;
    const auto in_name = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
    };
    while (at_ < text_.size() && in_name(text_[at_])) ++at_;
    const std::string_view found = text_.substr(begin, at_ - begin);
    const std::optional<std::uint32_t> index = names_(found);
    if (!index) {
      at_ = begin;
      return fail("unknown name \"" + std::string(found) + "\"");
    }
    return push({Step::Kind::kName, static_cast<std::int64_t>(*index)});
  }

  std::string_view text_;
  const Names& names_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::vector<Step>* steps_ = nullptr;
  std::string problem_;
};

Expression Expression::compile(std::string_view text, const Names& names, std::string* error) {
  Expression expression;
  if (!Compiler(text, names).run(&expression.steps_, error)) expression.steps_.clear();
  return expression;
}

bool Expression::apply(Step::Kind kind, std::int64_t left, std::int64_t right,
                       std::int64_t* result) {
  switch (kind) {
    case Step::Kind::kAdd:
      return !__builtin_add_overflow(left, right, result);
    case Step::Kind::kSubtract:
      return !__builtin_sub_overflow(left, right, result);
    case Step::Kind::kMultiply:
      return !__builtin_mul_overflow(left, right, result);
    case Step::Kind::kDivide:
      if (right == 0 || (left == INT64_MIN && right == -1)) return false;
      *result = left / right;
      return true;
    case Step::Kind::kRemainder:
      if (right == 0 || (left == INT64_MIN && right == -1)) return false;
      *result = left % right;
      return true;
    default:
      return false;
  }
}

}  // namespace kvshim::heuristics
