#include "text/pattern_cost.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace kvshim::text {
namespace {

// glibc copies what a counted repetition or a "+" repeats; a thousand copies take it some
// megabytes, and time and memory grow with the square.
constexpr std::uint64_t kMostCopies = 1000;
// It copies what stands behind an anchor, again for each anchor before it.
constexpr std::uint64_t kMostAnchors = 16;
// It recurses along what may be empty and along alternatives, on whatever stack the host gives.
constexpr std::uint64_t kMostLoose = 200;
// Both together multiply: sixteen \b before 200 "a?" take half a second and 100 MB.
constexpr std::uint64_t kMostAnchorsTimesLoose = 1000;
// It recurses into groups as well.
constexpr std::size_t kDeepest = 30;
// Larger counts are all too large; keeps products from overflowing.
constexpr std::uint64_t kCountedTo = std::uint64_t{1} << 24;

/// What a part of an expression comes to, repetitions written out.
struct Weight {
  std::uint64_t atoms = 0;
  std::uint64_t anchors = 0;
  std::uint64_t loose = 0;   // what may be empty, and alternatives
  bool may_be_empty = true;  // as nothing at all is
  bool branches = false;     // holds a repetition, an alternative or an anchor

  void append(const Weight& next) {
    atoms = std::min(atoms + next.atoms, kCountedTo);
    anchors = std::min(anchors + next.anchors, kCountedTo);
    loose = std::min(loose + next.loose, kCountedTo);
    may_be_empty = may_be_empty && next.may_be_empty;
    branches = branches || next.branches;
  }
};

/// How often a repetition repeats.
struct Times {
  std::uint64_t least = 0;
  std::uint64_t most = 1;  // as glibc writes them out: of "a+" it makes "aa*"
  bool endless = false;
};

/// Reads an expression as glibc does, as far as its cost goes.
class CostReader {
 public:
  explicit CostReader(std::string_view expression) : rest_(expression) {}

  std::string excess() {
    while (!rest_.empty()) {
      std::string reason = next();
      if (!reason.empty()) return reason;
    }
    while (groups_.size() > 1) close_group();  // regcomp finds what is not closed
    const Weight all = groups_.back().all();
    if (all.atoms > written_ + kMostCopies) {
      return "its repetitions come to more than " + std::to_string(kMostCopies) + " copies";
    }
    if (all.anchors > kMostAnchors) {
      return "it has more than " + std::to_string(kMostAnchors) + " anchors, copies included";
    }
    if (all.loose > kMostLoose) {
      return "it has more than " + std::to_string(kMostLoose) +
             " alternatives and parts that may be empty, copies included";
    }
    if (all.anchors * all.loose > kMostAnchorsTimesLoose) {
      return "its anchors times its alternatives and parts that may be empty come to more than " +
             std::to_string(kMostAnchorsTimesLoose);
    }
    return {};
  }

 private:
  /// What stands between two parentheses.
  struct Group {
    std::optional<Weight> alternatives;  // those before the last "|"
    Weight before;                       // the current one, without its last part
    Weight last;                         // what a repetition that follows repeats

    Weight alternative() const {
      Weight whole = before;
      whole.append(last);
      return whole;
    }

    Weight all() const {
      const Weight current = alternative();
      if (!alternatives) return current;
      Weight whole = *alternatives;
      whole.append(current);
      whole.may_be_empty = alternatives->may_be_empty || current.may_be_empty;
      return whole;
    }
  };

  std::string next() {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    switch (c) {
      case '\\':
        return escape();
      case '[':
        if (!skip_bracket()) return "a bracket is not closed";
        add_atom();
        return {};
      case '(':
        if (groups_.size() > kDeepest) {
          return "groups are nested more than " + std::to_string(kDeepest) + " deep";
        }
        groups_.emplace_back();
        return {};
      case ')':
        close_group();
        return {};
      case '|':
        split();
        return {};
      case '^':
      case '$':
        add_anchor();
        return {};
      case '+':
        return repeat({.least = 1, .most = 2, .endless = true});
      case '*':
        return repeat({.endless = true});
      case '?':
        return repeat({});
      case '{':
        if (const std::optional<Times> times = interval()) return repeat(*times);
        return R"(a "{" is not followed by numbers and a "}" (write "\{" for the character))";
      default:
        add_byte(c);
        return {};
    }
  }

  std::string escape() {
    constexpr std::string_view kAnchors = "bB<>`'";
    const char c = rest_.empty() ? '\\' : rest_.front();
    rest_.remove_prefix(std::min<std::size_t>(1, rest_.size()));
    if (c >= '1' && c <= '9') return "it has a back reference";
    if (kAnchors.find(c) != std::string_view::npos) {
      add_anchor();
    } else {
      add_atom();
    }
    return {};
  }

  /// In UTF-8 locales a repetition repeats all bytes of a character.
  void add_byte(char c) {
    if ((static_cast<unsigned char>(c) & 0xC0U) != 0x80U) return add_atom();
    ++written_;
    groups_.back().last.append({.atoms = 1, .may_be_empty = false});
  }

  void add_atom() {
    ++written_;
    add({.atoms = 1, .may_be_empty = false});
  }

  void add_anchor() {
    ++written_;
    add({.atoms = 1, .anchors = 1, .branches = true});
  }

  void add(const Weight& part) {
    Group& group = groups_.back();
    group.before.append(group.last);
    group.last = part;
  }

  void split() {
    Group& group = groups_.back();
    Weight whole = group.all();
    whole.loose = std::min(whole.loose + 1, kCountedTo);
    whole.branches = true;
    group = {.alternatives = whole, .before = {}, .last = {}};
  }

  void close_group() {
    if (groups_.size() == 1) return add_atom();  // without a partner it stands for itself
    Weight whole = groups_.back().all();
    groups_.pop_back();
    ++written_;
    whole.atoms = std::min(whole.atoms + 1, kCountedTo);
    if (whole.may_be_empty) whole.loose = std::min(whole.loose + 1, kCountedTo);
    add(whole);
  }

  std::string repeat(const Times& times) {
    Weight& last = groups_.back().last;
    if ((times.most > 1 || times.endless) && last.may_be_empty && last.branches) {
      return "it repeats what may be empty and holds a repetition, an alternative or an anchor";
    }
    const std::uint64_t copies = std::max<std::uint64_t>(times.most, 1);
    // One more for the operator itself.
    last.atoms = std::min(last.atoms * copies + 1, kCountedTo);
    last.anchors = std::min(last.anchors * copies, kCountedTo);
    const std::uint64_t optional = times.endless ? 1 : times.most - std::min(times.least, copies);
    last.loose = std::min(last.loose * copies + optional, kCountedTo);
    last.may_be_empty = last.may_be_empty || times.least == 0;
    last.branches = true;
    return {};
  }

  /// Behind the "{". Nothing where glibc might read it otherwise: it takes "\0" for a digit.
  std::optional<Times> interval() {
    const std::optional<std::uint64_t> least = number();
    Times times{.least = least.value_or(0), .most = least.value_or(0)};
    if (rest_.starts_with(',')) {
      rest_.remove_prefix(1);
      const std::optional<std::uint64_t> most = number();
      times.endless = !most;
      times.most = most ? std::max(*most, times.least) : times.least + 1;
    } else if (!least) {
      return std::nullopt;
    }
    if (!rest_.starts_with('}')) return std::nullopt;
    rest_.remove_prefix(1);
    return times;
  }

  std::optional<std::uint64_t> number() {
    std::optional<std::uint64_t> value;
    for (; !rest_.empty() && rest_.front() >= '0' && rest_.front() <= '9'; rest_.remove_prefix(1)) {
      value = std::min<std::uint64_t>(
          value.value_or(0) * 10 + static_cast<unsigned>(rest_.front() - '0'), kCountedTo);
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
