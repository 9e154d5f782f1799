#include "text/pattern.h"

#include <regex.h>

#include <array>
#include <utility>

#include "text/pattern_cost.h"

namespace kvshim::text {

struct Pattern::Compiled {
  Compiled() = default;
  ~Compiled() {
    if (valid) regfree(&expression);
  }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;

  regex_t expression{};
  bool valid = false;  // false: found in no text
};

Pattern Pattern::of_nothing() {
  Pattern pattern;
  pattern.compiled_ = std::make_shared<Compiled>();
  return pattern;
}

std::optional<Pattern> Pattern::compile(const std::string& expression, std::string* complaint) {
  constexpr std::size_t kLongest = 4096;
  const auto refused = [&](const std::string& why) {
    if (complaint != nullptr) *complaint = why;
    return std::nullopt;
  };
  if (expression.size() > kLongest || expression.find('\0') != std::string::npos) {
    return refused("the pattern is longer than 4096 characters or holds a zero byte");
  }
  Pattern pattern;
  if (expression.empty()) return pattern;
  const auto does_not_compile = [&](const std::string& why) {
    return refused("the pattern \"" + expression + "\" does not compile: " + why);
  };
  if (const std::string excess = excess_in(expression); !excess.empty()) {
    return does_not_compile(excess);
  }
  auto compiled = std::make_shared<Compiled>();
  const int error = regcomp(&compiled->expression, expression.c_str(), REG_EXTENDED | REG_NOSUB);
  if (error != 0) {
    std::array<char, 128> reason{};
    regerror(error, &compiled->expression, reason.data(), reason.size());
    return does_not_compile(reason.data());
  }
  compiled->valid = true;
  pattern.expression_ = expression;
  pattern.compiled_ = std::move(compiled);
  return pattern;
}

bool Pattern::found_in(const std::string& subject) const {
  if (compiled_ == nullptr) return true;
  return compiled_->valid && regexec(&compiled_->expression, subject.c_str(), 0, nullptr, 0) == 0;
}

}  // namespace kvshim::text
