#include "config/pattern.h"

#include <regex.h>

#include <array>
#include <utility>

namespace kvshim::config {

struct Pattern::Compiled {
  Compiled() = default;
  ~Compiled() {
    if (valid) regfree(&expression);
  }
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;

  regex_t expression{};
  bool valid = false;
};

std::optional<Pattern> Pattern::compile(const std::string& expression, std::string* complaint) {
  constexpr std::size_t kLongest = 4096;
  if (expression.size() > kLongest || expression.find('\0') != std::string::npos) {
    *complaint = "the pattern is longer than 4096 characters or holds a zero byte";
    return std::nullopt;
  }
  auto compiled = std::make_shared<Compiled>();
  const int error = regcomp(&compiled->expression, expression.c_str(), REG_EXTENDED | REG_NOSUB);
  if (error != 0) {
    std::array<char, 128> reason{};
    regerror(error, &compiled->expression, reason.data(), reason.size());
    *complaint = "the pattern \"" + expression + "\" does not compile: " + reason.data();
    return std::nullopt;
  }
  compiled->valid = true;
  return Pattern(std::move(compiled));
}

bool Pattern::found_in(const std::string& text) const {
  return regexec(&compiled_->expression, text.c_str(), 0, nullptr, 0) == 0;
}

}  // namespace kvshim::config
