#include "tools/kvshim/process_table.h"

#include <algorithm>
#include <array>

#include "tools/kvshim/figures_text.h"

namespace kvshim::cli {
namespace {

struct Column {
  const char* heading;
  const char* sort;  // the name of its order; null: none
  int width;
  int rank;  // the lowest goes first where there is no room
  std::string (*text)(const Row& row);
};

std::string idle_text(const ProcessFigures& process) {
  if (process.silent_seconds > 5) return "lost?";
  if (process.paused) return "pause";
  if (process.in_need) return "need";
  return process.idle_seconds < 0.2 ? "busy" : short_seconds(process.idle_seconds);
}

std::string bytes_rate(const Rates& rates, double value) {
  return rates.known ? short_bytes(static_cast<std::uint64_t>(value)) : "-";
}

std::string faults_rate(const Rates& rates) {
  return rates.known ? short_count(rates.faults) : "-";
}

constexpr std::array<Column, 13> kColumns{{
    {"OTHER", "other", 5, 20,
     [](const Row& row) { return row.figures.other == 0 ? "?" : short_bytes(row.figures.other); }},
    {"KV", "kv", 5, 30, [](const Row& row) { return short_bytes(row.figures.resident); }},
    {"PARK", "parked", 5, 18, [](const Row& row) { return short_bytes(row.figures.parked); }},
    {"ABSNT", "absent", 5, 16, [](const Row& row) { return short_bytes(row.figures.absent); }},
    {"CACHE", nullptr, 5, 3, [](const Row& row) { return short_bytes(row.figures.caches); }},
    {"FLT/S", "faults", 5, 14, [](const Row& row) { return faults_rate(row.rates); }},
    {"P99", nullptr, 5, 12,
     [](const Row& row) {
       return row.figures.faults == 0 ? "-" : short_microseconds(row.figures.fault_p99_us);
     }},
    {"REL/S", "released", 5, 10,
     [](const Row& row) { return bytes_rate(row.rates, row.rates.released); }},
    {"BCK/S", nullptr, 5, 8,
     [](const Row& row) { return bytes_rate(row.rates, row.rates.restored); }},
    {"LIMIT", "limit", 5, 24,
     [](const Row& row) {
       return row.figures.limit == kNoLimit ? std::string("-") : short_bytes(row.figures.limit);
     }},
    {"RESRV", nullptr, 5, 2,
     [](const Row& row) {
       return row.figures.reserve == 0 ? std::string("-") : short_bytes(row.figures.reserve);
     }},
    {"PRIO", nullptr, 4, 1, [](const Row& row) { return std::to_string(row.figures.priority); }},
    {"IDLE", "idle", 5, 22, [](const Row& row) { return idle_text(row.figures); }},
}};

constexpr int kLeast = 8;  // columns for a name
constexpr int kFront = 2 + 7 + 1;

std::string right(const std::string& text, int width) {
  const int missing = width - static_cast<int>(text.size());
  return missing > 0 ? std::string(static_cast<std::size_t>(missing), ' ') + text : text;
}

std::string left(const std::string& text, int width) {
  std::string result = text.substr(0, static_cast<std::size_t>(std::max(width, 0)));
  result.resize(static_cast<std::size_t>(std::max(width, 0)), ' ');
  return result;
}

/// Which columns fit beside a name of the least width.
std::vector<const Column*> fitting_columns(int width) {
  std::vector<const Column*> by_rank;
  for (const Column& column : kColumns) by_rank.push_back(&column);
  std::sort(by_rank.begin(), by_rank.end(),
            [](const Column* a, const Column* b) { return a->rank > b->rank; });
  int room = width - kFront - kLeast;
  std::vector<const Column*> chosen;
  for (const Column* column : by_rank) {
    if (room < column->width + 1) break;
    room -= column->width + 1;
    chosen.push_back(column);
  }
  std::sort(chosen.begin(), chosen.end());  // the table's order
  return chosen;
}

}  // namespace

char letter_of(int number) {
  return number >= 0 && number < 26 ? static_cast<char>('A' + number) : '*';
}

std::vector<Line> process_table(const std::vector<Row>& rows, const std::vector<int>& letters,
                                const std::string& sort, int width) {
  const std::vector<const Column*> columns = fitting_columns(width);
  int name_width = width - kFront;
  for (const Column* column : columns) name_width -= column->width + 1;
  std::size_t longest = kLeast;
  for (const Row& row : rows) longest = std::max(longest, row.figures.name.size());
  name_width = std::min(name_width, static_cast<int>(longest));

  std::vector<Line> lines;
  Line heading{{"  " + right("PID", 7) + " " + left("NAME", name_width), Style::kHeading}};
  for (const Column* column : columns) {
    const bool sorted = column->sort != nullptr && sort == column->sort;
    heading.push_back({" ", Style::kHeading});
    heading.push_back(
        {right(column->heading, column->width), sorted ? Style::kSelected : Style::kHeading});
  }
  lines.push_back(std::move(heading));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ProcessFigures& process = rows[i].figures;
    Line line;
    line.push_back({letters[i] < 0 ? " " : std::string(1, letter_of(letters[i])), Style::kProcess,
                    letters[i]});
    std::string text =
        " " + right(std::to_string(process.pid), 7) + " " + left(process.name, name_width);
    for (const Column* column : columns) text += " " + right(column->text(rows[i]), column->width);
    line.push_back({text, Style::kPlain});
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace kvshim::cli
