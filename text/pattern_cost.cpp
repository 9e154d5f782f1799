#include "text/pattern_cost.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvshim::text {
namespace {

// glibc copies what a counted repetition or a "+" repeats; a thousand copies take it some
// megabytes, and time and memory grow with the square.
constexpr std::uint64_t kMostCopies = 1000;
// It recurses into groups, on whatever stack the host gives.
constexpr std::size_t kDeepest = 30;
// Larger counts are all too large; keeps products from overflowing.
constexpr std::uint64_t kCountedTo = std::uint64_t{1} << 24;

/// Reads an expression as glibc does, as far as its cost goes.
class CostReader {
 public:
  explicit CostReader(std::string_view expression) : rest_(expression) {}

  std::string excess() {
    while (!rest_.empty()) {
      std::string reason = next();
      if (!reason.empty()) return reason;
    }
    std::uint64_t in_all = 0;
    for (const Group& group : groups_) in_all += group.atoms;
    if (in_all - written_ > kMostCopies) {
      return "its repetitions come to more than " + std::to_string(kMostCopies) + " copies";
    }
    return {};
  }

 private:
  /// What stands between two parentheses, repetitions written out.
  struct Group {
    std::uint64_t atoms = 0;
    std::uint64_t last = 0;  // of them, what a repetition that follows repeats
  };

  std::string next() {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    switch (c) {
      case '\\':
        if (!rest_.empty() && rest_.front() >= '1' && rest_.front() <= '9') {
          return "it has a back reference";
        }
        rest_.remove_prefix(std::min<std::size_t>(1, rest_.size()));
        add(1);
        break;
      case '[':
        if (!skip_bracket()) return "a bracket is not closed";
        add(1);
        break;
      case '(':
        if (groups_.size() > kDeepest) {
          return "groups are nested more than " + std::to_string(kDeepest) + " deep";
        }
        groups_.emplace_back();
        break;
      case ')':
        close_group();
        break;
      case '+':
        repeat(2);  // glibc makes "aa*" of "a+"
        break;
      case '{':
        repeat(interval());
        break;
      case '*':
      case '?':
        repeat(1);
        break;
      default:
        add(1);
    }
    return {};
  }

  void add(std::uint64_t atoms) {
    ++written_;
    groups_.back().atoms = std::min(groups_.back().atoms + atoms, kCountedTo);
    groups_.back().last = atoms;
  }

  void close_group() {
    if (groups_.size() == 1) return add(1);  // without a partner it stands for itself
    const std::uint64_t inside = groups_.back().atoms;
    groups_.pop_back();
    add(inside + 1);
  }

  /// One more for the operator: glibc recurses along what may be empty.
  void repeat(std::uint64_t copies) {
    Group& group = groups_.back();
    const std::uint64_t repeated = std::min(group.last * copies + 1, kCountedTo);
    group.atoms = std::min(group.atoms + repeated - group.last, kCountedTo);
    group.last = repeated;
  }

  /// Behind the "{": how many copies it asks for.
  std::uint64_t interval() {
    std::uint64_t copies = number();
    if (rest_.starts_with(',')) {
      rest_.remove_prefix(1);
      copies = rest_.starts_with('}') ? copies + 1 : std::max(copies, number());
    }
    if (rest_.starts_with('}')) rest_.remove_prefix(1);
    return std::max<std::uint64_t>(copies, 1);
  }

  std::uint64_t number() {
    std::uint64_t value = 0;
    for (; !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; rest_.remove_prefix(1)) {
      value = std::min<std::uint64_t>(value * 10 + static_cast<unsigned>(rest_.front() - '0'),
                                      kCountedTo);
    }
    return value;
  }

  /// Behind the "[". In brackets a backslash is a character like others.
  bool skip_bracket() {
    if (rest_.starts_with('^')) rest_.remove_prefix(1);
    if (rest_.starts_with(']')) rest_.remove_prefix(1);
    while (!rest_.empty()) {
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == ']') return true;
      if (c != '[' || rest_.empty()) continue;
      const char kind = rest_.front();  // [:alpha:], [.hyphen.], [=a=]
      if (kind != ':' && kind != '.' && kind != '=') continue;
      const char end[] = {kind, ']'};
      const std::size_t at = rest_.find(std::string_view(end, 2), 1);
      if (at == std::string_view::npos) return false;
      rest_.remove_prefix(at + 2);
    }
    return false;
  }

  std::string_view rest_;
  std::vector<Group> groups_ = std::vector<Group>(1);
  std::uint64_t written_ = 0;  // atoms as they stand in the expression
};

}  // namespace

std::string excess_in(std::string_view expression) { return CostReader(expression).excess(); }

}  // namespace kvshim::text
