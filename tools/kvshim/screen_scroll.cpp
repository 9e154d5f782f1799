#include "tools/kvshim/screen_scroll.h"

#include <algorithm>
#include <string>

namespace kvshim::cli {
namespace {

/// Places in the body; the headings come first.
struct Window {
  std::size_t headings_begin = 0, headings_end = 0;
  std::size_t begin = 0, end = 0;
};

Window window_of(const std::vector<BodyLine>& body, std::size_t rows) {
  const auto found =
      std::find_if(body.begin(), body.end(), [](const BodyLine& one) { return one.is_selected; });
  const auto selected = static_cast<std::size_t>(found - body.begin());
  if (found == body.end() || selected < rows) return {0, 0, 0, std::min(rows, body.size())};
  std::size_t first_process = found->part;
  while (!body[first_process].is_process) ++first_process;
  const std::size_t headings = std::min(first_process - found->part, rows - 1);
  const std::size_t room = rows - headings;
  const std::size_t last_begin = body.size() - std::min(room, body.size());
  const std::size_t begin = std::max(first_process, std::min(selected - room / 2, last_begin));
  return {first_process - headings, first_process, begin, std::min(begin + room, body.size())};
}

std::size_t processes_in(const std::vector<BodyLine>& body, std::size_t begin, std::size_t end) {
  const auto first = body.begin();
  return static_cast<std::size_t>(std::count_if(
      first + static_cast<std::ptrdiff_t>(begin), first + static_cast<std::ptrdiff_t>(end),
      [](const BodyLine& one) { return one.is_process; }));
}

std::string note_of(std::size_t above, std::size_t below) {
  std::string text;
  if (above > 0) text = "+" + std::to_string(above) + " more above";
  if (below > 0) text += (above > 0 ? ", +" : "+") + std::to_string(below) + " more below";
  return text;
}

}  // namespace

std::vector<Line> visible_lines(const std::vector<BodyLine>& body, std::size_t rows) {
  const auto is_cut = [&](const Window& window) {
    return processes_in(body, 0, window.begin) + processes_in(body, window.end, body.size()) > 0;
  };
  Window window = window_of(body, rows);
  const bool noted = rows > 1 && is_cut(window);
  if (noted) window = window_of(body, rows - 1);
  std::vector<Line> lines;
  const auto add = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) lines.push_back(body[i].line);
  };
  add(window.headings_begin, window.headings_end);
  add(window.begin, window.end);
  if (noted) {
    lines.push_back({{"  " + note_of(processes_in(body, 0, window.begin),
                                     processes_in(body, window.end, body.size())),
                      Style::kDim}});
  }
  return lines;
}

}  // namespace kvshim::cli
