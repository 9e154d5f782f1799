#include "config/suggestion.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvshim::config {
namespace {

/// Optimal string alignment distance.
std::size_t edits(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t exchange = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, exchange});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    before_last.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

std::string_view nearest_name(std::string_view wrong, std::span<const std::string_view> names) {
  constexpr std::size_t kLongest = 64;  // nobody mistypes a longer one; bounds the work
  if (wrong.size() > kLongest) return {};
  std::string_view best;
  std::size_t fewest = SIZE_MAX;
  for (const std::string_view name : names) {
    const std::size_t count = edits(wrong, name);
    if (count < fewest && count <= std::max<std::size_t>(1, name.size() / 3)) {
      fewest = count;
      best = name;
    }
  }
  return best;
}

}  // namespace kvshim::config
