#include "tools/kvshim/screen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/tools/snapshots.h"
#include "tools/kvshim/gpu_bar.h"
#include "tools/kvshim/process_table.h"

namespace kvshim::cli {
namespace {

using ::testing::HasSubstr;
using testing::kGiB;
using ::testing::Not;
using testing::two_engines;
using testing::two_engines_before;

/// Compares with a file beside this one; KVSHIM_UPDATE_GOLDEN=1 rewrites it.
void expect_golden(const std::string& name, const std::string& text) {
  const std::string path = std::string(GOLDEN_FOLDER) + "/" + name + ".txt";
  if (std::getenv("KVSHIM_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path) << text;
    return;
  }
  std::ifstream file(path);
  std::stringstream expected;
  expected << file.rdbuf();
  EXPECT_EQ(text, expected.str()) << path;
}

View plain_view() {
  View view;
  view.live = false;
  view.clock = "14:31:07";
  return view;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Screen, ShowsTwoEnginesOn80By24) {
  History history;
  for (int i = 0; i < 40; ++i) {
    Snapshot sample = two_engines(i);
    sample.gpus[0].used = (20 + static_cast<std::uint64_t>(i)) * kGiB;
    remember(sample, &history);
  }
  View view = plain_view();
  view.live = true;
  view.history = &history;
  const Snapshot before = two_engines_before();
  expect_golden("two_engines_80x24", plain_text(render(two_engines(), &before, view, 80, 24)));
}

TEST(Screen, ShowsOneTextScreenWithoutKeysAndRates) {
  expect_golden("two_engines_once",
                plain_text(render(two_engines(), nullptr, plain_view(), 80, 1000)));
}

TEST(Screen, ShowsMoreColumnsWhereThereIsRoom) {
  const Snapshot before = two_engines_before();
  expect_golden("two_engines_120",
                plain_text(render(two_engines(), &before, plain_view(), 120, 30)));
}

TEST(Screen, TellsWhatToDoWhenNothingRuns) {
  expect_golden("nothing", plain_text(render({}, nullptr, plain_view(), 80, 24)));
}

TEST(Screen, ShowsTheHelpOn80By24) {
  View view = plain_view();
  view.live = true;
  view.help = true;
  expect_golden("help", plain_text(render(two_engines(), nullptr, view, 80, 24)));
}

TEST(Screen, NeverExceedsTheTerminal) {
  Snapshot snapshot = two_engines();
  for (int i = 0; i < 40; ++i) {
    ProcessFigures process = testing::idle_engine();
    process.pid = 30000 + i;
    snapshot.gpus[0].processes.push_back(process);
  }
  snapshot.problems = {std::string(300, 'x')};
  History history;
  remember(snapshot, &history);
  const Snapshot before = two_engines_before();
  for (const bool help : {false, true}) {
    for (int width = 20; width <= 200; width += 7) {
      for (int height = 5; height <= 60; height += 5) {
        View view = plain_view();
        view.live = true;
        view.help = help;
        view.message = std::string(250, 'm');
        view.history = &history;
        const std::vector<Line> lines = render(snapshot, &before, view, width, height);
        ASSERT_LE(static_cast<int>(lines.size()), height);
        for (const Line& line : lines) {
          int columns = 0;
          for (const Span& span : line) columns += columns_of(span.text);
          ASSERT_LE(columns, width) << "height " << height;
        }
      }
    }
  }
}

TEST(Screen, TellsProblemsWhereProcessesFillTheScreen) {
  Snapshot snapshot = two_engines();
  while (snapshot.gpus[0].processes.size() < 40) {
    ProcessFigures process = testing::idle_engine();
    process.pid = 30000 + static_cast<int>(snapshot.gpus[0].processes.size());
    snapshot.gpus[0].processes.push_back(process);
  }
  snapshot.problems = {"one can't be read"};
  View view = plain_view();
  view.live = true;
  const auto one = lines_of(plain_text(render(snapshot, nullptr, view, 80, 24)));
  ASSERT_EQ(one.size(), 24u);
  EXPECT_EQ(one[22], "! one can't be read");
  EXPECT_THAT(one[21], HasSubstr("more below"));

  snapshot.problems.assign(40, "one of many");
  const auto many = lines_of(plain_text(render(snapshot, nullptr, view, 80, 24)));
  ASSERT_EQ(many.size(), 24u);
  EXPECT_THAT(many[8], HasSubstr("+36 more below")) << "four processes stay";
  EXPECT_EQ(many[9], "! one of many");

  snapshot.problems.resize(1);
  const auto small = lines_of(plain_text(render(snapshot, nullptr, view, 80, 5)));
  EXPECT_EQ(small[3], "! one of many");
}

TEST(Screen, KeepsTheFootWhereRowsDoNotFit) {
  Snapshot snapshot = two_engines();
  View view = plain_view();
  view.live = true;
  view.prompt = "limit of 1619: 20G";
  const std::vector<std::string> lines =
      lines_of(plain_text(render(snapshot, nullptr, view, 80, 5)));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines.back(), "limit of 1619: 20G");
}

TEST(Screen, MarksTheSelectedProcessAndOneInNeed) {
  Snapshot snapshot = two_engines();
  snapshot.gpus[0].processes[1].in_need = true;
  View view = plain_view();
  view.gpu = snapshot.gpus[0].uuid;
  view.selected = 1619;
  const std::vector<Line> lines = render(snapshot, nullptr, view, 80, 24);
  EXPECT_EQ(lines[4].back().style, Style::kSelected);
  EXPECT_EQ(lines[5].back().style, Style::kWarning);
  EXPECT_THAT(plain_text({lines[5]}), HasSubstr(" need"));
}

TEST(Screen, KeepsALetterWhenTheOrderChanges) {
  Snapshot snapshot = two_engines();
  View by_kv = plain_view();
  View by_name = plain_view();
  by_name.sort = "name";
  const auto first = lines_of(plain_text(render(snapshot, nullptr, by_kv, 80, 24)));
  const auto second = lines_of(plain_text(render(snapshot, nullptr, by_name, 80, 24)));
  EXPECT_EQ(first[4].substr(0, 9), "A    1619");
  EXPECT_EQ(second[4].substr(0, 9), "B   20417");
  EXPECT_EQ(first[2], second[2]);  // the bar
}

TEST(Screen, SaysThatAProcessIsSilent) {
  Snapshot snapshot = two_engines();
  snapshot.gpus[0].processes[0].silent_seconds = 6;
  EXPECT_THAT(plain_text(render(snapshot, nullptr, plain_view(), 80, 24)), HasSubstr(" lost?"));
}

TEST(Screen, DrawsHistoryWithoutUnicodeWhereTheTerminalHasNone) {
  History history;
  remember(two_engines(), &history);
  View view = plain_view();
  view.live = true;
  view.unicode = false;
  view.history = &history;
  const std::string text = plain_text(render(two_engines(), nullptr, view, 80, 24));
  EXPECT_THAT(text, HasSubstr("100% |"));
  for (const char c : text) EXPECT_GE(c, 0);
}

TEST(GpuBar, FillsItsWidthAndShowsEveryPart) {
  Snapshot snapshot = two_engines();
  GpuFigures& gpu = snapshot.gpus[0];
  gpu.processes[1].caches = 1;  // far less than a cell
  for (int width = 12; width < 150; ++width) {
    const std::string bar = plain_text({gpu_bar(gpu, {0, 1}, width)});
    ASSERT_EQ(bar.size(), static_cast<std::size_t>(width) + 1);
    for (const char part : std::string("Aa~B#.")) {
      ASSERT_NE(bar.find(part), std::string::npos) << part << " in " << bar;
    }
  }
}

TEST(GpuBar, IsProportional) {
  GpuFigures gpu;
  gpu.total = 100 * kGiB;
  gpu.used = 50 * kGiB;
  ProcessFigures process;
  process.resident = 25 * kGiB;
  gpu.processes = {process};
  EXPECT_EQ(plain_text({gpu_bar(gpu, {0}, 22)}), "[aaaaa#####..........]\n");
}

TEST(GpuBar, SurvivesFiguresThatContradictEachOther) {
  GpuFigures gpu;
  gpu.total = 1 * kGiB;
  gpu.used = 0;
  ProcessFigures process;
  process.resident = 5 * kGiB;
  gpu.processes = {process};
  EXPECT_EQ(plain_text({gpu_bar(gpu, {0}, 12)}), "[aaaaaaaaaa]\n");
  gpu.processes[0].resident = 0;
  gpu.total = 0;
  EXPECT_EQ(plain_text({gpu_bar(gpu, {0}, 12)}), "[]\n");
}

TEST(ProcessTable, LeavesOutTheLeastImportantColumnsFirst) {
  const std::vector<Row> rows{{testing::busy_engine(), {}}};
  const std::string wide = plain_text(process_table(rows, {0}, "kv", 120));
  const std::string usual = plain_text(process_table(rows, {0}, "kv", 80));
  const std::string narrow = plain_text(process_table(rows, {0}, "kv", 40));
  EXPECT_THAT(wide, HasSubstr("PRIO"));
  EXPECT_THAT(usual, Not(HasSubstr("PRIO")));
  EXPECT_THAT(usual, HasSubstr("BCK/S"));
  EXPECT_THAT(narrow, Not(HasSubstr("BCK/S")));
  EXPECT_THAT(narrow, HasSubstr("KV"));
  EXPECT_THAT(narrow, HasSubstr("LIMIT"));
}

}  // namespace
}  // namespace kvshim::cli
