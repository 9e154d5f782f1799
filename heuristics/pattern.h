// A compiled regular expression of a profile or a rule: POSIX extended syntax.
// The C library's matcher is used because kernel names are kilobytes long and
// std::regex recurses once for each character.
#pragma once

#include <memory>
#include <string>

namespace kvshim::heuristics {

class Pattern {
 public:
  /// Matches everything.
  Pattern() = default;
  /// On a syntax error `*error` is set and the pattern matches nothing.
  static Pattern compile(const std::string& text, std::string* error);

  /// True when the pattern is found anywhere in `subject`. Thread-safe.
  bool found_in(const std::string& subject) const;
  const std::string& text() const { return text_; }
  bool empty() const { return text_.empty(); }

 private:
  struct Compiled;
  std::string text_;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace kvshim::heuristics
