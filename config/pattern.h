// Regular expressions of the configuration.
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace kvshim::config {

/// A POSIX extended regular expression that is searched for anywhere in a
/// text. From glibc and not from <regex>: this runs in foreign processes, on
/// stacks of unknown size, and std::regex recurses once for each character.
/// Immutable; any thread.
class Pattern {
 public:
  /// Nothing, and `*complaint` says why, when `expression` isn't one.
  static std::optional<Pattern> compile(const std::string& expression, std::string* complaint);
  bool found_in(const std::string& text) const;

 private:
  struct Compiled;
  explicit Pattern(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace kvshim::config
