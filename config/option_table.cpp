#include "config/option_table.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <type_traits>

#include "config/quantities.h"

namespace kvshim::config {
namespace {

/// What makes sense for an option beyond its type; in bytes, nanoseconds or as
/// a number.
struct Limits {
  std::string_view name;
  double least;
  double most;
};

constexpr double kMiB = 1024.0 * 1024.0;
constexpr double kTiB = kMiB * kMiB;
constexpr double kMillisecond = 1e6;

constexpr std::array kLimits{
    Limits{"min_size", 2 * kMiB, 64 * kTiB},  // a granule
    // A process has 128 TiB of addresses.
    Limits{"arena_size", 64 * kMiB, 64 * kTiB},
    Limits{"idle_timeout", kMillisecond, 1e18},
    Limits{"read_ahead_max", 2 * kMiB, 32 * kMiB},  // a granule, the largest extent
    Limits{"read_ahead_share", 0, 1},
    Limits{"guard_watchdog", kMillisecond, 1e18},
    Limits{"limit", 0, 64 * kTiB},
    Limits{"reserve", 0, 64 * kTiB},
    Limits{"group_limit", 0, 64 * kTiB},
    Limits{"group_reserve", 0, 64 * kTiB},
    Limits{"group_priority", -100, 100},
    Limits{"priority", -100, 100},
};

template <class T>
std::string outside_limits(std::string_view name, double value, const T& format) {
  for (const Limits& limits : kLimits) {
    if (limits.name != name) continue;
    if (value < limits.least) return "too small, the least is " + format(limits.least);
    if (value > limits.most) return "too large, the most is " + format(limits.most);
  }
  return {};
}

std::string in_quotes(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + '"';
}

std::string number_text(double value) {
  std::array<char, 32> buffer{};
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return error == std::errc() ? std::string(buffer.data(), end) : "?";
}

std::string shown(const Scalar& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (const auto* whole = std::get_if<std::int64_t>(&value)) return std::to_string(*whole);
  if (const auto* number = std::get_if<double>(&value)) return number_text(*number);
  return in_quotes(std::get<std::string>(value));
}

// One struct for each type of option: its kind, its reading, its writing.
template <class T>
struct Codec;

template <class T>
std::string wrong_type(const Scalar& value) {
  return "expected " + std::string(Codec<T>::kKind) + ", got " + shown(value);
}

template <>
struct Codec<bool> {
  static constexpr std::string_view kKind = "true or false";
  static std::string read(const Scalar& value, std::string_view, bool* out) {
    const auto* flag = std::get_if<bool>(&value);
    if (flag == nullptr) return wrong_type<bool>(value);
    *out = *flag;
    return {};
  }
  static Scalar from_text(std::string_view text) {
    if (text == "1" || text == "true" || text == "on" || text == "yes") return true;
    if (text == "0" || text == "false" || text == "off" || text == "no") return false;
    return std::string(text);
  }
  static std::string write(bool value) { return value ? "true" : "false"; }
};

template <>
struct Codec<double> {
  static constexpr std::string_view kKind = "a number";
  static std::string read(const Scalar& value, std::string_view name, double* out) {
    double number = 0;
    if (const auto* real = std::get_if<double>(&value)) {
      number = *real;
    } else if (const auto* whole = std::get_if<std::int64_t>(&value)) {
      number = static_cast<double>(*whole);
    } else {
      return wrong_type<double>(value);
    }
    if (!(number == number)) return wrong_type<double>(value);  // nan
    std::string complaint = outside_limits(name, number, number_text);
    if (!complaint.empty()) return shown(value) + " is " + complaint;
    *out = number;
    return {};
  }
  static Scalar from_text(std::string_view text) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return number;
    return std::string(text);
  }
  static std::string write(double value) { return number_text(value); }
};

template <>
struct Codec<std::string> {
  static constexpr std::string_view kKind = "a text in quotes";
  static std::string read(const Scalar& value, std::string_view, std::string* out) {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr) return wrong_type<std::string>(value);
    if (text->find('\0') != std::string::npos) return "a zero byte can't be in a path";
    *out = *text;
    return {};
  }
  static Scalar from_text(std::string_view text) { return std::string(text); }
  static std::string write(const std::string& value) { return in_quotes(value); }
};

template <>
struct Codec<Bytes> {
  static constexpr std::string_view kKind = "a size such as \"64MiB\"";
  /// The one option that the machine decides unless the user does.
  static constexpr std::string_view kAutomatic = "host_budget";
  static std::string read(const Scalar& value, std::string_view name, Bytes* out) {
    Bytes bytes = 0;
    if (const auto* whole = std::get_if<std::int64_t>(&value)) {
      if (*whole < 0) return shown(value) + " is too small, a size is not negative";
      bytes = static_cast<Bytes>(*whole);
    } else if (const auto* text = std::get_if<std::string>(&value)) {
      if (name == kAutomatic && *text == "auto") {
        *out = UINT64_MAX;
        return {};
      }
      std::string complaint;
      const auto parsed = parse_bytes(*text, &complaint);
      if (!parsed) return complaint;
      bytes = *parsed;
    } else {
      return wrong_type<Bytes>(value);
    }
    std::string complaint = outside_limits(name, static_cast<double>(bytes), [](double limit) {
      return format_bytes(static_cast<Bytes>(limit));
    });
    if (!complaint.empty()) return shown(value) + " is " + complaint;
    *out = bytes;
    return {};
  }
  static Scalar from_text(std::string_view text) { return std::string(text); }
  static std::string write(Bytes value) {
    return in_quotes(value == UINT64_MAX ? "auto" : format_bytes(value));
  }
};

template <>
struct Codec<Amount> {
  static constexpr std::string_view kKind = "a size such as \"20GiB\" or a share such as \"50%\"";
  static std::string read(const Scalar& value, std::string_view name, Amount* out) {
    const auto* text = std::get_if<std::string>(&value);
    if (text != nullptr && text->ends_with('%')) {
      double percent = 0;
      const char* const end = text->data() + text->size() - 1;
      const auto [stop, error] = std::from_chars(text->data(), end, percent);
      if (error != std::errc() || stop != end || !(percent >= 0)) return wrong_type<Amount>(value);
      if (percent > 100) return shown(value) + " is too large, the most is 100%";
      *out = {0, percent / 100};
      return {};
    }
    if (text == nullptr && !std::holds_alternative<std::int64_t>(value)) {
      return wrong_type<Amount>(value);
    }
    Bytes bytes = 0;
    std::string complaint = Codec<Bytes>::read(value, name, &bytes);
    if (complaint.empty()) *out = {bytes, 0};
    return complaint;
  }
  static Scalar from_text(std::string_view text) { return std::string(text); }
  static std::string write(const Amount& value) {
    return value.share != 0 ? in_quotes(number_text(value.share * 100) + "%")
                            : Codec<Bytes>::write(value.bytes);
  }
};

template <>
struct Codec<std::int64_t> {
  static constexpr std::string_view kKind = "a whole number";
  static std::string read(const Scalar& value, std::string_view name, std::int64_t* out) {
    const auto* whole = std::get_if<std::int64_t>(&value);
    if (whole == nullptr) return wrong_type<std::int64_t>(value);
    std::string complaint = outside_limits(name, static_cast<double>(*whole), number_text);
    if (!complaint.empty()) return shown(value) + " is " + complaint;
    *out = *whole;
    return {};
  }
  static Scalar from_text(std::string_view text) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return number;
    return std::string(text);
  }
  static std::string write(std::int64_t value) { return std::to_string(value); }
};

template <>
struct Codec<Duration> {
  static constexpr std::string_view kKind = "a time such as \"2s\"";
  static std::string read(const Scalar& value, std::string_view name, Duration* out) {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr) return wrong_type<Duration>(value);
    std::string complaint;
    const auto parsed = parse_duration(*text, &complaint);
    if (!parsed) return complaint;
    complaint = outside_limits(name, static_cast<double>(parsed->count()), [](double limit) {
      return format_duration(Duration(static_cast<std::int64_t>(limit)));
    });
    if (!complaint.empty()) return shown(value) + " is " + complaint;
    *out = *parsed;
    return {};
  }
  static Scalar from_text(std::string_view text) { return std::string(text); }
  static std::string write(Duration value) { return in_quotes(format_duration(value)); }
};

/// A choice between words; the enumerators are the words' indexes.
template <class T, std::size_t kCount>
struct ChoiceCodec {
  static std::string read_choice(const std::array<std::string_view, kCount>& words,
                                 const Scalar& value, T* out) {
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr) return wrong_type<T>(value);
    for (std::size_t i = 0; i < kCount; ++i) {
      if (*text == words[i]) {
        *out = static_cast<T>(i);
        return {};
      }
    }
    return wrong_type<T>(value);
  }
  static Scalar from_text(std::string_view text) { return std::string(text); }
};

template <>
struct Codec<Contents> : ChoiceCodec<Contents, 2> {
  static constexpr std::string_view kKind = "\"preserve\" or \"disposable\"";
  static constexpr std::array<std::string_view, 2> kWords{"preserve", "disposable"};
  static std::string read(const Scalar& value, std::string_view, Contents* out) {
    return read_choice(kWords, value, out);
  }
  static std::string write(Contents value) {
    return in_quotes(kWords[static_cast<std::size_t>(value)]);
  }
};

template <>
struct Codec<MemoryView> : ChoiceCodec<MemoryView, 2> {
  static constexpr std::string_view kKind = "\"private\" or \"physical\"";
  static constexpr std::array<std::string_view, 2> kWords{"private", "physical"};
  static std::string read(const Scalar& value, std::string_view, MemoryView* out) {
    return read_choice(kWords, value, out);
  }
  static std::string write(MemoryView value) {
    return in_quotes(kWords[static_cast<std::size_t>(value)]);
  }
};

template <>
struct Codec<LogLevel> : ChoiceCodec<LogLevel, 5> {
  static constexpr std::string_view kKind =
      "\"debug\", \"info\", \"warning\", \"error\" or \"off\"";
  static constexpr std::array<std::string_view, 5> kWords{"debug", "info", "warning", "error",
                                                          "off"};
  static std::string read(const Scalar& value, std::string_view, LogLevel* out) {
    return read_choice(kWords, value, out);
  }
  static std::string write(LogLevel value) {
    return in_quotes(kWords[static_cast<std::size_t>(value)]);
  }
};

constexpr OptionEntry kTable[] = {
#define KVSHIM_OPTION(type, name, default_value, text)                                        \
  OptionEntry{#name,                                                                          \
              Codec<type>::kKind,                                                             \
              text,                                                                           \
              [](Options& options, const Scalar& value) {                                     \
                return Codec<type>::read(value, #name, &options.name);                        \
              },                                                                              \
              [](Options& options, std::string_view from) {                                   \
                return Codec<type>::read(Codec<type>::from_text(from), #name, &options.name); \
              },                                                                              \
              [](const Options& options) { return Codec<type>::write(options.name); }},
#include "config/options.def"
#undef KVSHIM_OPTION
};

}  // namespace

std::span<const OptionEntry> option_table() { return kTable; }

const OptionEntry* find_option(std::string_view name) {
  for (const OptionEntry& entry : kTable) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

std::string environment_name(std::string_view option) {
  std::string result = "KVSHIM_";
  for (const char c : option) {
    result += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return result;
}

}  // namespace kvshim::config
