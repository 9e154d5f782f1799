#include "tools/kvshim/figures_text.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace kvshim::cli {
namespace {

std::string formatted(const char* form, double value, const char* unit) {
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), form, value, unit);
  return text.data();
}

/// The value cut after as many decimals as leave three digits.
std::string three_digits(double value, const char* unit) {
  if (value >= 100) return formatted("%.0f%s", std::floor(value), unit);
  if (value >= 10) return formatted("%.1f%s", std::floor(value * 10) / 10, unit);
  return formatted("%.2f%s", std::floor(value * 100) / 100, unit);
}

}  // namespace

std::string short_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes);
  if (bytes < (std::uint64_t{1} << 20)) return std::to_string(bytes >> 10) + "K";
  if (bytes < (std::uint64_t{1} << 30)) return std::to_string(bytes >> 20) + "M";
  const double gib = static_cast<double>(bytes) / (1 << 30);
  if (gib < 1000) return three_digits(gib, "G");
  const double tib = gib / 1024;
  return tib < 10000 ? three_digits(tib, "T") : "many";
}

std::string long_bytes(std::uint64_t bytes) {
  if (bytes > 0 && bytes < 1024) {
    return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
  }
  if (bytes < (std::uint64_t{1} << 20)) return std::to_string(bytes >> 10) + " KiB";
  if (bytes < (std::uint64_t{1} << 30)) return std::to_string(bytes >> 20) + " MiB";
  return three_digits(static_cast<double>(bytes) / (1 << 30), " GiB");
}

std::string short_count(double count) {
  if (count <= 0) return "0";
  if (count < 10) return formatted("%.1f%s", count, "");
  if (count < 10000) return formatted("%.0f%s", count, "");
  if (count < 1e6) return three_digits(count / 1e3, "k");
  return count < 1e9 ? three_digits(count / 1e6, "M") : "many";
}

std::string short_microseconds(std::uint64_t microseconds) {
  if (microseconds < 1000) return std::to_string(microseconds) + "us";
  const double milliseconds = static_cast<double>(microseconds) / 1000;
  if (milliseconds < 10) return formatted("%.1f%s", milliseconds, "ms");
  if (milliseconds < 1000) return formatted("%.0f%s", std::floor(milliseconds), "ms");
  return short_seconds(milliseconds / 1000);
}

std::string short_seconds(double seconds) {
  if (seconds < 10) return formatted("%.1f%s", std::floor(seconds * 10) / 10, "s");
  if (seconds < 100) return formatted("%.0f%s", std::floor(seconds), "s");
  if (seconds < 6000) return formatted("%.0f%s", std::floor(seconds / 60), "m");
  if (seconds < 360000) return formatted("%.0f%s", std::floor(seconds / 3600), "h");
  return seconds < 8.64e8 ? formatted("%.0f%s", std::floor(seconds / 86400), "d") : "long";
}

}  // namespace kvshim::cli
