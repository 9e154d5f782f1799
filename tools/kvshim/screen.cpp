#include "tools/kvshim/screen.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/gpu_bar.h"
#include "tools/kvshim/process_table.h"
#include "tools/kvshim/screen_order.h"
#include "tools/kvshim/screen_scroll.h"

namespace kvshim::cli {
namespace {

constexpr std::size_t kMostSamples = 1000;
constexpr int kMostGraphLines = 14;
// A GPU's three headings, four processes, and how many more there are.
constexpr std::size_t kFewestTableLines = 8;

constexpr const char* kLegend =
    "CAPITALS other (weights)  small KV  ~ caches  # without kvshim  . free";
constexpr const char* kKeys = "q quit  h help  s sort  l limit  r release  p pause  arrows select";

constexpr std::array<const char*, 16> kHelp{
    "OTHER   GPU memory that is not pool: weights, activations, graphs",
    "KV      pool memory in GPU memory now",
    "PARK    pool contents in host memory; ABSNT: pool memory that is nowhere",
    "CACHE   GPU memory kept ready: zero pages and handles",
    "FLT/S   faults a second; P99: 99 of 100 faults were served in this time",
    "REL/S   released a second; BCK/S: brought back from host memory",
    "LIMIT   most GPU memory; RESRV: what neighbours never take; PRIO: who gives last",
    "IDLE    since work last reached a pool; busy, pause, need (asks neighbours),",
    "        lost? (the process has not said anything for 5 s: stopped?)",
    "",
    "up, down  select a process       s, S   next column to sort by; from the start",
    "l         set a limit: 20GiB, 50%, none",
    "r         release what is idle   p      pause or resume releasing",
    "space     sample now             +, -   sample more or less often",
    "h, ?      this help              q      quit",
    "",
};

Line line_of(const std::string& text, Style style = Style::kPlain) { return {{text, style}}; }

std::string aligned(const std::string& left, const std::string& right, int width) {
  const int room = width - columns_of(left) - columns_of(right);
  if (right.empty()) return left;
  return left + std::string(static_cast<std::size_t>(std::max(room, 1)), ' ') + right;
}

/// Cuts the line after `width` columns.
void cut(Line& line, int width) {
  int left = width;
  for (auto span = line.begin(); span != line.end(); ++span) {
    const int columns = columns_of(span->text);
    if (columns <= left) {
      left -= columns;
      continue;
    }
    std::size_t end = 0;
    while (left > 0) {  // whole characters
      ++end;
      while (end < span->text.size() && (span->text[end] & 0xc0) == 0x80) ++end;
      --left;
    }
    span->text.resize(end);
    line.erase(span + 1, line.end());
    return;
  }
}

std::string gpu_heading(const GpuFigures& gpu, int width) {
  std::string left = "GPU";
  if (gpu.index >= 0) left += " " + std::to_string(gpu.index);
  left += " " + (gpu.name.empty() ? gpu.uuid : gpu.name);
  if (gpu.total == 0) return aligned(left, "size unknown", width);
  const std::uint64_t used = std::max(gpu.used, gpu.used_by_ours());
  char share[16];
  std::snprintf(share, sizeof share, " (%.0f %%)",
                100 * static_cast<double>(used) / static_cast<double>(gpu.total));
  return aligned(left, short_bytes(used) + " of " + short_bytes(gpu.total) + share, width);
}

std::string count_text(std::size_t count, const char* one, const char* many) {
  return std::to_string(count) + " " + (count == 1 ? one : many);
}

Line title(const Snapshot& now, const View& view, int width) {
  std::size_t processes = 0;
  for (const GpuFigures& gpu : now.gpus) processes += gpu.processes.size();
  const std::string text = "kvshim " KVSHIM_VERSION "  " +
                           count_text(processes, "process", "processes") + " on " +
                           count_text(now.gpus.size(), "GPU", "GPUs");
  return line_of(aligned(text, view.clock, width), Style::kBold);
}

/// `rows` lines that show the newest samples as columns of blocks.
std::vector<Line> history_graph(const std::deque<double>& samples, const View& view, int width,
                                int rows) {
  constexpr std::array<const char*, 9> kBlocks{" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  constexpr std::array<const char*, 9> kPlain{" ", ".", ".", ":", ":", "|", "|", "#", "#"};
  const auto& marks = view.unicode ? kBlocks : kPlain;
  const auto columns = static_cast<std::size_t>(std::max(width - 6, 0));
  const std::size_t shown = std::min(columns, samples.size());
  std::vector<Line> lines;
  for (int row = rows - 1; row >= 0; --row) {
    std::string text = row == rows - 1 ? "100% |" : row == 0 ? "  0% |" : "     |";
    text += std::string(columns - shown, ' ');
    for (std::size_t i = samples.size() - shown; i < samples.size(); ++i) {
      const double level = samples[i] * rows - row;
      const double clamped = std::clamp(level * 8, 0.0, 8.0);
      text += marks[static_cast<std::size_t>(std::lround(clamped))];
    }
    lines.push_back(line_of(text, Style::kDim));
  }
  return lines;
}

void add_gpu(const GpuFigures& gpu, const Snapshot& now, const Snapshot* before, const View& view,
             int width, std::vector<BodyLine>* body) {
  const std::size_t part = body->size();
  const auto add = [&](Line line) { body->push_back({std::move(line), part}); };
  std::vector<Row> rows;
  for (const ProcessFigures& process : gpu.processes) {
    const ProcessFigures* earlier =
        before == nullptr ? nullptr : find_process(*before, gpu.uuid, process.pid);
    rows.push_back({process, rates_of(process, earlier,
                                      before == nullptr ? 0 : now.seconds - before->seconds)});
  }
  // Letters go by process id, so that a new order of rows does not rename them.
  sort_rows(rows, "pid");
  GpuFigures by_letter = gpu;
  by_letter.processes.clear();
  std::vector<int> letters;
  std::map<std::int64_t, int> letter_by_pid;
  for (const Row& row : rows) {
    by_letter.processes.push_back(row.figures);
    letter_by_pid[row.figures.pid] = static_cast<int>(letters.size());
    letters.push_back(static_cast<int>(letters.size()));
  }
  add(line_of(gpu_heading(gpu, width), Style::kBold));
  if (gpu.total != 0) add(gpu_bar(by_letter, letters, width));
  if (rows.empty()) {
    add(line_of("  no process under kvshim on this GPU", Style::kDim));
    return;
  }
  sort_rows(rows, view.sort);
  letters.clear();
  for (const Row& row : rows) letters.push_back(letter_by_pid[row.figures.pid]);
  std::vector<Line> table = process_table(rows, letters, view.sort, width);
  add(std::move(table.front()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ProcessFigures& process = rows[i].figures;
    const bool selected = view.selected == process.pid && view.gpu == gpu.uuid;
    Line& line = table[i + 1];
    if (process.silent_seconds > 5 || process.in_need) line.back().style = Style::kWarning;
    if (selected) line.back().style = Style::kSelected;
    body->push_back({std::move(line), part, true, selected});
  }
}

/// How many of `rows` (1 or more) are kept for problems, whatever there is to show otherwise.
std::size_t lines_for_problems(std::size_t problems, std::size_t rows) {
  const std::size_t beside_table = rows > kFewestTableLines ? rows - kFewestTableLines : 1;
  return std::min({problems, beside_table, rows - 1});
}

/// GPUs, processes, and what is to be said about them; at most `rows` (1 or more) lines.
std::vector<Line> figures_part(const Snapshot& now, const Snapshot* before, const View& view,
                               int width, std::size_t rows) {
  std::vector<BodyLine> body;
  for (const GpuFigures& gpu : now.gpus) add_gpu(gpu, now, before, view, width, &body);
  std::vector<Line> legend;
  if (now.gpus.empty()) {
    legend.emplace_back();
    legend.push_back(line_of("No process of this user runs under kvshim with pools."));
    legend.push_back(
        line_of("Start one: kvwrap vllm serve ...   Check one: kvshim doctor --pid PID"));
  } else {
    legend.push_back(line_of(kLegend, Style::kDim));
  }
  std::vector<Line> lines =
      visible_lines(body, rows - lines_for_problems(now.problems.size(), rows));
  // What is wrong is told rather than what letters mean.
  if (lines.size() + legend.size() + now.problems.size() <= rows || now.gpus.empty()) {
    lines.insert(lines.end(), legend.begin(), legend.end());
  }
  for (const std::string& problem : now.problems) {
    lines.push_back(line_of("! " + problem, Style::kWarning));
  }
  if (lines.size() > rows) lines.resize(rows);
  return lines;
}

}  // namespace

int columns_of(const std::string& utf8) {
  return static_cast<int>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

void remember(const Snapshot& snapshot, History* history) {
  for (const GpuFigures& gpu : snapshot.gpus) {
    if (gpu.total == 0) continue;
    std::deque<double>& samples = (*history)[gpu.uuid];
    const std::uint64_t used = std::max(gpu.used, gpu.used_by_ours());
    samples.push_back(std::min(1.0, static_cast<double>(used) / static_cast<double>(gpu.total)));
    if (samples.size() > kMostSamples) samples.pop_front();
  }
}

std::vector<Line> render(const Snapshot& now, const Snapshot* before, const View& view, int width,
                         int height) {
  const int foot = view.live ? (view.message.empty() ? 1 : 2) : 0;
  const auto room = static_cast<std::size_t>(std::max(height - foot, 2));
  std::vector<Line> lines{title(now, view, width)};
  if (view.help) {
    lines.emplace_back();
    for (const char* text : kHelp) lines.push_back(line_of(text));
    if (lines.size() > room) lines.resize(room);
  } else {
    for (Line& line : figures_part(now, before, view, width, room - 1)) {
      lines.push_back(std::move(line));
    }
  }
  if (view.live) {
    const int left = static_cast<int>(room - lines.size());
    const std::string uuid = view.gpu.empty() && !now.gpus.empty() ? now.gpus[0].uuid : view.gpu;
    if (!view.help && view.history != nullptr && left >= 4 && view.history->contains(uuid)) {
      lines.emplace_back();
      for (Line& line : history_graph(view.history->at(uuid), view, width,
                                      std::min(left - 1, kMostGraphLines))) {
        lines.push_back(std::move(line));
      }
    }
    lines.resize(room);
    if (!view.message.empty()) lines.push_back(line_of(view.message, Style::kWarning));
    lines.push_back(line_of(view.prompt.empty() ? kKeys : view.prompt,
                            view.prompt.empty() ? Style::kDim : Style::kBold));
  }
  for (Line& line : lines) cut(line, width);
  return lines;
}

std::string plain_text(const std::vector<Line>& lines) {
  std::string text;
  for (const Line& line : lines) {
    std::string whole;
    for (const Span& span : line) whole += span.text;
    whole.erase(whole.find_last_not_of(' ') + 1);
    text += whole + "\n";
  }
  return text;
}

}  // namespace kvshim::cli
