#include "tools/kvshim/gpu_bar.h"

#include <algorithm>
#include <numeric>

#include "tools/kvshim/process_table.h"

namespace kvshim::cli {
namespace {

struct Part {
  std::uint64_t bytes = 0;
  char mark = ' ';
  int process = -1;
  int cells = 0;
};

/// Whole cells by the largest remainder, so that the sum is exact; then one cell
/// for whatever is not 0, from the largest.
void divide(std::vector<Part>& parts, int cells) {
  const double total = static_cast<double>(
      std::accumulate(parts.begin(), parts.end(), std::uint64_t{0},
                      [](std::uint64_t sum, const Part& part) { return sum + part.bytes; }));
  if (total <= 0) return;
  std::vector<std::pair<double, std::size_t>> rests;
  int left = cells;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const double exact = static_cast<double>(parts[i].bytes) / total * cells;
    parts[i].cells = static_cast<int>(exact);
    left -= parts[i].cells;
    rests.emplace_back(exact - parts[i].cells, i);
  }
  std::sort(rests.begin(), rests.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  for (const auto& [rest, i] : rests) {
    if (left <= 0) break;
    ++parts[i].cells;
    --left;
  }
  for (Part& part : parts) {
    if (part.bytes == 0 || part.cells > 0) continue;
    const auto largest = std::max_element(
        parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.cells < b.cells; });
    if (largest->cells < 2) break;
    --largest->cells;
    part.cells = 1;
  }
}

}  // namespace

Line gpu_bar(const GpuFigures& gpu, const std::vector<int>& letters, int width) {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < gpu.processes.size(); ++i) {
    const ProcessFigures& process = gpu.processes[i];
    const char letter = letter_of(letters[i]);
    const char small = letter == '*' ? '+' : static_cast<char>(letter - 'A' + 'a');
    parts.push_back({process.other, letter, letters[i]});
    parts.push_back({process.resident, small, letters[i]});
    parts.push_back({process.caches, '~', letters[i]});
  }
  parts.push_back({gpu.used_by_others(), '#', -1});
  const std::uint64_t used = std::max(gpu.used, gpu.used_by_ours());
  parts.push_back({gpu.total > used ? gpu.total - used : 0, '.', -1});
  divide(parts, std::max(width - 2, 0));
  Line line{{"[", Style::kPlain}};
  for (const Part& part : parts) {
    if (part.cells == 0) continue;
    Style style = Style::kDim;
    if (part.process >= 0) style = Style::kProcess;
    if (part.mark == '#') style = Style::kBold;
    line.push_back(
        {std::string(static_cast<std::size_t>(part.cells), part.mark), style, part.process});
  }
  line.push_back({"]", Style::kPlain});
  return line;
}

}  // namespace kvshim::cli
