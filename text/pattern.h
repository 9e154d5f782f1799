// Regular expressions of the configuration and of profiles.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace kvshim::text {

/// A POSIX extended regular expression that is searched for anywhere in a
/// text. From glibc and not from <regex>: this runs in foreign processes, on
/// stacks of unknown size, on kernel names of kilobytes, and std::regex recurses
/// once for each character. Immutable; any thread.
class Pattern {
 public:
  /// Found in every text.
  Pattern() = default;
  /// Found in none.
  static Pattern of_nothing();
  /// Nothing, and `*complaint` (may be null) says why, when `expression` isn't one, or one that
  /// could take gigabytes, seconds or a whole stack, or looks so (pattern_cost.h). The empty one is
  /// found in every text.
  static std::optional<Pattern> compile(const std::string& expression, std::string* complaint);

  bool found_in(const std::string& subject) const;
  const std::string& expression() const { return expression_; }
  bool empty() const { return expression_.empty(); }

 private:
  struct Compiled;
  std::string expression_;
  std::shared_ptr<const Compiled> compiled_;  // null: found in every text
};

}  // namespace kvshim::text
