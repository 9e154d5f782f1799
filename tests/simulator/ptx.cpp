#include "tests/simulator/ptx.h"

#include <cctype>
#include <charconv>
#include <cstdint>

namespace kvshim::simulator {
namespace {

/// Words, numbers and single punctuation marks; comments and strings skipped.
class Tokens {
 public:
  explicit Tokens(std::string_view text) : rest_(text) {}

  std::string_view next() {
    skip_blanks();
    if (rest_.empty()) return {};
    std::size_t length = 1;
    if (is_word(rest_[0])) {
      while (length < rest_.size() && is_word(rest_[length])) ++length;
    } else if (rest_[0] == '"') {
      while (length < rest_.size() && rest_[length] != '"') ++length;
      if (length < rest_.size()) ++length;
    }
    const std::string_view token = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return token;
  }

 private:
  static bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '.' ||
           c == '%';
  }

  void skip_blanks() {
    for (;;) {
      while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0])) != 0) {
        rest_.remove_prefix(1);
      }
      if (rest_.starts_with("//")) {
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      } else if (rest_.starts_with("/*")) {
        const std::size_t end = rest_.find("*/");
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 2);
      } else {
        return;
      }
    }
  }

  std::string_view rest_;
};

std::size_t type_bytes(std::string_view type) {
  if (type.size() < 3) return 0;
  const std::string_view kinds = "busf";
  if (type[0] != '.' || kinds.find(type[1]) == std::string_view::npos) return 0;
  std::size_t bits = 0;
  const auto [end, error] = std::from_chars(type.data() + 2, type.data() + type.size(), bits);
  if (error != std::errc{} || end != type.data() + type.size()) return 0;
  return bits / 8;
}

std::size_t number(std::string_view token) {
  std::size_t value = 0;
  std::from_chars(token.data(), token.data() + token.size(), value);
  return value;
}

struct Declaration {
  std::string_view name, end;  // end: the token after it
  std::size_t bytes = 0, alignment = 1;
};

/// What follows .param or .global: qualifiers, type, name, perhaps [count].
std::optional<Declaration> read_declaration(Tokens& tokens) {
  Declaration declaration;
  std::size_t element = 0;
  std::size_t alignment = 0;
  bool pointer_alignment = false;
  std::string_view token = tokens.next();
  for (; token.starts_with('.'); token = tokens.next()) {
    if (token == ".align") {
      const std::size_t value = number(tokens.next());
      // ".ptr .global .align 16" speaks of what the pointer points to.
      if (!pointer_alignment) alignment = value;
    } else if (token == ".ptr") {
      pointer_alignment = true;
    } else if (const std::size_t bytes = type_bytes(token); bytes != 0) {
      element = bytes;
    }
  }
  if (token.empty() || element == 0) return std::nullopt;
  declaration.name = token;
  declaration.bytes = element;
  declaration.alignment = alignment == 0 ? element : alignment;
  declaration.end = tokens.next();
  while (declaration.end == "[") {
    const std::string_view count = tokens.next();
    if (count == "]") {
      declaration.bytes = 0;  // extern, of unknown size
    } else {
      declaration.bytes *= number(count);
      tokens.next();
    }
    declaration.end = tokens.next();
  }
  return declaration;
}

std::optional<PtxEntry> read_entry(Tokens& tokens) {
  PtxEntry entry;
  entry.name = tokens.next();
  if (entry.name.empty()) return std::nullopt;
  if (tokens.next() != "(") return entry;  // no parameters
  for (std::string_view token = tokens.next(); token != ")"; token = tokens.next()) {
    if (token.empty()) return std::nullopt;
    if (token != ".param") continue;
    const auto declaration = read_declaration(tokens);
    if (!declaration) return std::nullopt;
    const std::size_t mask = declaration->alignment - 1;
    const std::size_t offset = (entry.params_bytes + mask) & ~mask;
    entry.params.push_back({offset, declaration->bytes});
    entry.params_bytes = offset + declaration->bytes;
    if (declaration->end == ")") break;
  }
  return entry;
}

}  // namespace

std::optional<PtxModule> read_ptx(std::string_view text) {
  PtxModule module;
  bool versioned = false;
  Tokens tokens(text);
  int depth = 0;
  for (std::string_view token = tokens.next(); !token.empty(); token = tokens.next()) {
    if (token == "{") ++depth;
    if (token == "}") --depth;
    if (token == ".version") versioned = true;
    if (depth != 0) continue;
    if (token == ".entry") {
      auto entry = read_entry(tokens);
      if (!entry) return std::nullopt;
      module.entries.push_back(std::move(*entry));
    } else if (token == ".global") {
      const auto declaration = read_declaration(tokens);
      if (!declaration) return std::nullopt;
      module.variables.push_back({std::string(declaration->name), declaration->bytes});
    }
  }
  if (!versioned) return std::nullopt;
  return module;
}

}  // namespace kvshim::simulator
