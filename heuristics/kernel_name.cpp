#include "heuristics/kernel_name.h"

#include <cxxabi.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <utility>

namespace kvshim::heuristics {
namespace {

// Bracket bookkeeping over demangled text. Angle brackets are ambiguous there
// (operators, comparisons inside parentheses): '>' closes only what '<' opened,
// and a closing parenthesis takes unclosed angle brackets with it.
class Brackets {
 public:
  explicit Brackets(std::string_view text) : text_(text) {}

  /// Takes the character at `at`; false when the text is unbalanced.
  bool take(std::size_t at) {
    const char c = text_[at];
    switch (c) {
      case '<':
        if (!is_operator_sign(at)) open_.push_back(c);
        return true;
      case '(':
      case '[':
      case '{':
        open_.push_back(c);
        return true;
      case '>':
        if (is_operator_sign(at) || (at > 0 && text_[at - 1] == '-')) return true;
        if (!open_.empty() && open_.back() == '<') open_.pop_back();
        return true;
      case ')':
        return close('(');
      case ']':
        return close('[');
      case '}':
        return close('{');
      default:
        return true;
    }
  }
  std::size_t depth() const { return open_.size(); }

 private:
  bool close(char opener) {
    while (!open_.empty() && open_.back() == '<' && opener != '<') open_.pop_back();
    if (open_.empty() || open_.back() != opener) return false;
    open_.pop_back();
    return true;
  }
  // operator<, operator<<, operator->, operator>=...
  bool is_operator_sign(std::size_t at) const {
    constexpr std::string_view kWord = "operator";
    std::size_t begin = at;
    while (begin > 0 && (text_[begin - 1] == '<' || text_[begin - 1] == '>' ||
                         text_[begin - 1] == '-' || text_[begin - 1] == '=')) {
      --begin;
    }
    return at - begin < 3 && begin >= kWord.size() &&
           text_.substr(begin - kWord.size(), kWord.size()) == kWord;
  }

  std::string_view text_;
  std::string open_;
};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::optional<std::vector<std::string>> split_at_commas(std::string_view list) {
  std::vector<std::string> parts;
  Brackets brackets(list);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < list.size(); ++at) {
    if (!brackets.take(at)) return std::nullopt;
    if (list[at] == ',' && brackets.depth() == 0) {
      parts.emplace_back(trimmed(list.substr(begin, at - begin)));
      begin = at + 1;
    }
  }
  if (brackets.depth() != 0) return std::nullopt;
  const std::string_view last = trimmed(list.substr(begin));
  if (!last.empty() || !parts.empty()) parts.emplace_back(last);
  return parts;
}

// The last top-level bracket pair of the given kind: [first, second] are the
// positions of the opening and the closing character.
std::optional<std::pair<std::size_t, std::size_t>> last_group(std::string_view text, char opener) {
  std::optional<std::pair<std::size_t, std::size_t>> found;
  Brackets brackets(text);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::size_t before = brackets.depth();
    if (!brackets.take(at)) return std::nullopt;
    const std::size_t after = brackets.depth();
    if (before == 0 && after == 1) begin = at;
    if (before > 0 && after == 0 && text[begin] == opener) found = {begin, at};
  }
  return found;
}

// The return type ends at the last blank outside brackets.
std::string_view without_return_type(std::string_view text) {
  std::size_t start = 0;
  Brackets brackets(text);
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!brackets.take(at)) return text;
    if (text[at] == ' ' && brackets.depth() == 0) start = at + 1;
  }
  return text.substr(start);
}

}  // namespace

KernelName parse_kernel_name(std::string_view mangled) {
  KernelName result;
  result.mangled = std::string(mangled);
  result.text = result.mangled;
  result.name = result.mangled;
  if (!mangled.starts_with("_Z")) return result;
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> demangled(
      abi::__cxa_demangle(result.mangled.c_str(), nullptr, nullptr, &status), &std::free);
  if (status != 0 || demangled == nullptr) return result;
  result.text = demangled.get();

  const auto group = last_group(result.text, '(');
  if (!group) {
    result.name = result.text;
    return result;
  }
  const std::string_view text = result.text;
  result.name = std::string(trimmed(without_return_type(trimmed(text.substr(0, group->first)))));
  result.template_arguments = template_arguments_of(result.name);
  auto parameters =
      split_at_commas(text.substr(group->first + 1, group->second - group->first - 1));
  if (parameters && parameters->size() == 1 && parameters->front() == "void") parameters->clear();
  result.parameters = std::move(parameters);
  return result;
}

std::vector<std::string> template_arguments_of(std::string_view type) {
  type = trimmed(type);
  const auto group = last_group(type, '<');
  // Only a list that ends the type is its own: "A<x>::B" has none.
  if (!group || group->second + 1 != type.size()) return {};
  auto parts = split_at_commas(type.substr(group->first + 1, group->second - group->first - 1));
  return parts ? std::move(*parts) : std::vector<std::string>{};
}

std::string template_argument_at(const std::vector<std::string>& arguments, std::string_view path) {
  std::vector<std::string> level = arguments;
  std::string found;
  while (!path.empty()) {
    const std::size_t dot = path.find('.');
    const std::string_view digits = path.substr(0, dot);
    path = dot == std::string_view::npos ? std::string_view{} : path.substr(dot + 1);
    std::size_t index = 0;
    if (digits.empty() || digits.size() > 3) return {};
    for (const char c : digits) {
      if (c < '0' || c > '9') return {};
      index = index * 10 + static_cast<std::size_t>(c - '0');
    }
    if (index >= level.size()) return {};
    found = level[index];
    level = template_arguments_of(found);
  }
  return found;
}

std::string_view find_template_instance(std::string_view text, std::string_view name) {
  for (std::size_t at = text.find(name); at != std::string_view::npos;
       at = text.find(name, at + 1)) {
    const std::size_t open = at + name.size();
    const bool whole_word = at == 0 || text[at - 1] == ':' || text[at - 1] == '<' ||
                            text[at - 1] == ' ' || text[at - 1] == '(' || text[at - 1] == ',';
    if (!whole_word || open >= text.size() || text[open] != '<') continue;
    const std::string_view rest = text.substr(open);
    Brackets brackets(rest);
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (!brackets.take(i)) break;
      if (brackets.depth() == 0) return text.substr(at, name.size() + i + 1);
    }
  }
  return {};
}

bool is_pointer_type(std::string_view type) {
  type = trimmed(type);
  for (const std::string_view qualifier : {" const", "__restrict__", "__restrict"}) {
    while (type.ends_with(qualifier))
      type = trimmed(type.substr(0, type.size() - qualifier.size()));
  }
  return type.ends_with('*');
}

std::string pointee_type(std::string_view type) {
  if (!is_pointer_type(type)) return {};
  std::string_view pointee = trimmed(type.substr(0, type.rfind('*')));
  if (pointee.ends_with(" const")) pointee.remove_suffix(6);
  return std::string(pointee);
}

bool points_to_const(std::string_view type) {
  if (!is_pointer_type(type)) return false;
  const std::string_view pointee = trimmed(type.substr(0, type.rfind('*')));
  return pointee.ends_with(" const") || pointee.ends_with("*const") ||
         (pointee.starts_with("const ") && !is_pointer_type(pointee));
}

std::optional<std::size_t> known_type_size(std::string_view type) {
  type = trimmed(type);
  if (is_pointer_type(type)) return 8;
  static constexpr std::array<std::pair<std::string_view, std::size_t>, 46> kSizes{{
      {"bool", 1},
      {"char", 1},
      {"signed char", 1},
      {"unsigned char", 1},
      {"short", 2},
      {"unsigned short", 2},
      {"int", 4},
      {"unsigned int", 4},
      {"long", 8},
      {"unsigned long", 8},
      {"long long", 8},
      {"unsigned long long", 8},
      {"float", 4},
      {"double", 8},
      {"half", 2},
      {"__half", 2},
      {"__half2", 4},
      {"__nv_bfloat16", 2},
      {"__nv_bfloat162", 4},
      {"__nv_fp8_e4m3", 1},
      {"__nv_fp8_e5m2", 1},
      {"__nv_fp8_e8m0", 1},
      {"c10::Half", 2},
      {"c10::BFloat16", 2},
      {"c10::Float8_e4m3fn", 1},
      {"c10::Float8_e5m2", 1},
      {"c10::Float8_e4m3fnuz", 1},
      {"c10::Float8_e5m2fnuz", 1},
      {"c10::Float8_e8m0fnu", 1},
      {"c10::Float4_e2m1fn_x2", 1},
      {"c10::complex<c10::Half>", 4},
      {"c10::complex<float>", 8},
      {"c10::complex<double>", 16},
      {"c10::qint8", 1},
      {"c10::quint8", 1},
      {"c10::qint32", 4},
      {"cutlass::half_t", 2},
      {"cutlass::bfloat16_t", 2},
      {"cutlass::float_e4m3_t", 1},
      {"cutlass::float_e5m2_t", 1},
      {"float2", 8},
      {"float4", 16},
      {"uint3", 12},
      {"int4", 16},
      {"uint2", 8},
      {"uint4", 16},
  }};
  for (const auto& [name, size] : kSizes) {
    if (type == name) return size;
  }
  return std::nullopt;
}

}  // namespace kvshim::heuristics
