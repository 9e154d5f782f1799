#include "heuristics/pattern.h"

#include <regex.h>

namespace kvshim::heuristics {

struct Pattern::Compiled {
  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() {
    if (valid) regfree(&expression);
  }
  regex_t expression{};
  bool valid = false;
};

Pattern Pattern::compile(const std::string& text, std::string* error) {
  Pattern pattern;
  if (text.empty()) return pattern;
  pattern.text_ = text;
  auto compiled = std::make_shared<Compiled>();
  const int code = regcomp(&compiled->expression, text.c_str(), REG_EXTENDED | REG_NOSUB);
  if (code == 0) {
    compiled->valid = true;
  } else if (error != nullptr) {
    char message[128];
    regerror(code, &compiled->expression, message, sizeof message);
    *error = "\"" + text + "\" is not a regular expression: " + message;
  }
  pattern.compiled_ = std::move(compiled);
  return pattern;
}

bool Pattern::found_in(const std::string& subject) const {
  if (compiled_ == nullptr) return true;
  return compiled_->valid && regexec(&compiled_->expression, subject.c_str(), 0, nullptr, 0) == 0;
}

}  // namespace kvshim::heuristics
