#include "config/quantities.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <span>

namespace kvshim::config {
namespace {

struct Unit {
  std::string_view name;  // in lower case; the first of a value is how it is written
  std::uint64_t value;
  std::string_view written;
};

constexpr std::uint64_t kKibi = 1024;
constexpr std::uint64_t kKilo = 1000;

constexpr std::array kSizeUnits{
    Unit{"tib", kKibi* kKibi* kKibi* kKibi, "TiB"},
    Unit{"gib", kKibi* kKibi* kKibi, "GiB"},
    Unit{"mib", kKibi* kKibi, "MiB"},
    Unit{"kib", kKibi, "KiB"},
    Unit{"b", 1, "B"},
    Unit{"", 1, ""},
    Unit{"t", kKibi* kKibi* kKibi* kKibi, ""},
    Unit{"g", kKibi* kKibi* kKibi, ""},
    Unit{"m", kKibi* kKibi, ""},
    Unit{"k", kKibi, ""},
    Unit{"tb", kKilo* kKilo* kKilo* kKilo, ""},
    Unit{"gb", kKilo* kKilo* kKilo, ""},
    Unit{"mb", kKilo* kKilo, ""},
    Unit{"kb", kKilo, ""},
};

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kLongest = kSecond * 3600 * 24 * 366 * 100;

constexpr std::array kTimeUnits{
    Unit{"d", 24 * 3600 * kSecond, "d"},
    Unit{"h", 3600 * kSecond, "h"},
    Unit{"m", 60 * kSecond, "m"},
    Unit{"s", kSecond, "s"},
    Unit{"ms", 1'000'000, "ms"},
    Unit{"us", 1'000, "us"},
    Unit{"ns", 1, "ns"},
    Unit{"min", 60 * kSecond, ""},
    Unit{"\xc2\xb5s", 1'000, ""},
};

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string lower_case(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

enum class Fault { kNone, kNotOne, kTooLarge };

/// Digits, optionally with a fraction, then a unit. Exact for whole numbers.
Fault parse(std::string_view text, std::span<const Unit> units, std::uint64_t* value) {
  text = trimmed(text);
  const std::size_t digits = text.find_first_not_of("0123456789.");
  const std::string_view number = text.substr(0, digits);
  const std::string name =
      digits == std::string_view::npos ? "" : lower_case(trimmed(text.substr(digits)));
  if (number.empty()) return Fault::kNotOne;
  const Unit* unit = nullptr;
  for (const Unit& candidate : units) {
    if (candidate.name == name) {
      unit = &candidate;
      break;
    }
  }
  if (unit == nullptr) return Fault::kNotOne;
  const char* end = number.data() + number.size();
  if (number.find('.') == std::string_view::npos) {
    std::uint64_t count = 0;
    const auto [rest, error] = std::from_chars(number.data(), end, count);
    if (error == std::errc::result_out_of_range) return Fault::kTooLarge;
    if (error != std::errc() || rest != end) return Fault::kNotOne;
    if (__builtin_mul_overflow(count, unit->value, value)) return Fault::kTooLarge;
    return Fault::kNone;
  }
  double count = 0;
  const auto [rest, error] = std::from_chars(number.data(), end, count);
  if (error != std::errc() || rest != end) return Fault::kNotOne;
  const double product = std::round(count * static_cast<double>(unit->value));
  if (product >= 0x1p64) return Fault::kTooLarge;
  *value = static_cast<std::uint64_t>(product);
  return Fault::kNone;
}

std::string format(std::uint64_t value, std::span<const Unit> units, std::string_view zero) {
  if (value == 0) return std::string(zero);
  for (const Unit& unit : units) {
    if (!unit.written.empty() && value % unit.value == 0) {
      return std::to_string(value / unit.value) + std::string(unit.written);
    }
  }
  return std::to_string(value);
}

}  // namespace

std::optional<Bytes> parse_bytes(std::string_view text, std::string* complaint) {
  std::uint64_t value = 0;
  switch (parse(text, kSizeUnits, &value)) {
    case Fault::kNone:
      return value;
    case Fault::kTooLarge:
      *complaint = "\"" + std::string(text) + "\" is too large, sizes end below 2^64 bytes";
      return std::nullopt;
    case Fault::kNotOne:
      break;
  }
  *complaint = "\"" + std::string(text) + "\" is not a size, write one such as \"64MiB\"";
  return std::nullopt;
}

std::optional<Duration> parse_duration(std::string_view text, std::string* complaint) {
  std::uint64_t value = 0;
  const Fault fault = parse(text, kTimeUnits, &value);
  if (fault == Fault::kNone && value <= kLongest) return Duration(value);
  *complaint = fault == Fault::kNotOne
                   ? "\"" + std::string(text) +
                         "\" is not a time, write one with its unit, such as \"2s\" or \"300ms\""
                   : "\"" + std::string(text) + "\" is too long, times end at 100 years";
  return std::nullopt;
}

std::string format_bytes(Bytes value) { return format(value, kSizeUnits, "0B"); }

std::string format_duration(Duration value) {
  return format(static_cast<std::uint64_t>(value.count()), kTimeUnits, "0s");
}

}  // namespace kvshim::config
