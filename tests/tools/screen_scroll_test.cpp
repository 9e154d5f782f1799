#include "tools/kvshim/screen_scroll.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/tools/snapshots.h"
#include "tools/kvshim/top_session.h"

namespace kvshim::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// GPUs with the heading lines "h0 a", "h0 b" and the processes "p0 0", "p0 1", ... each.
std::vector<BodyLine> body_of(const std::vector<int>& processes, int gpu = -1, int selected = -1) {
  std::vector<BodyLine> body;
  for (int g = 0; g < static_cast<int>(processes.size()); ++g) {
    const std::size_t part = body.size();
    for (const char* which : {"a", "b"}) {
      body.push_back({{{"h" + std::to_string(g) + " " + which}}, part});
    }
    for (int p = 0; p < processes[static_cast<std::size_t>(g)]; ++p) {
      body.push_back({{{"p" + std::to_string(g) + " " + std::to_string(p)}},
                      part,
                      true,
                      g == gpu && p == selected});
    }
  }
  return body;
}

std::vector<std::string> shown(const std::vector<BodyLine>& body, std::size_t rows) {
  std::vector<std::string> texts;
  for (const Line& line : visible_lines(body, rows)) texts.push_back(line.front().text);
  return texts;
}

TEST(ScreenScroll, ShowsEverythingWhereThereIsRoom) {
  EXPECT_THAT(shown(body_of({2}, 0, 1), 4), ElementsAre("h0 a", "h0 b", "p0 0", "p0 1"));
  EXPECT_THAT(shown({}, 4), ElementsAre());
}

TEST(ScreenScroll, SaysHowManyAreBelow) {
  EXPECT_THAT(shown(body_of({9}), 5),
              ElementsAre("h0 a", "h0 b", "p0 0", "p0 1", "  +7 more below"));
}

TEST(ScreenScroll, FollowsTheSelectionBelowTheHeadings) {
  EXPECT_THAT(shown(body_of({9}, 0, 4), 6), ElementsAre("h0 a", "h0 b", "p0 3", "p0 4", "p0 5",
                                                        "  +3 more above, +3 more below"));
  EXPECT_THAT(shown(body_of({9}, 0, 8), 6),
              ElementsAre("h0 a", "h0 b", "p0 6", "p0 7", "p0 8", "  +6 more above"));
}

TEST(ScreenScroll, ShowsTheHeadingsOfTheSelectedGpu) {
  EXPECT_THAT(shown(body_of({5, 5}, 1, 0), 6), ElementsAre("h1 a", "h1 b", "p1 0", "p1 1", "p1 2",
                                                           "  +5 more above, +2 more below"));
}

TEST(ScreenScroll, AlwaysShowsTheSelectionAndCountsTheRest) {
  for (const std::vector<int>& processes :
       std::vector<std::vector<int>>{{1}, {40}, {3, 0, 30}, {0, 1, 0, 12, 1}, {7, 7, 7, 7}}) {
    for (int gpu = 0; gpu < static_cast<int>(processes.size()); ++gpu) {
      for (int selected = 0; selected < processes[static_cast<std::size_t>(gpu)]; ++selected) {
        const std::vector<BodyLine> body = body_of(processes, gpu, selected);
        for (std::size_t rows = 1; rows <= body.size() + 1; ++rows) {
          const std::vector<std::string> texts = shown(body, rows);
          ASSERT_LE(texts.size(), rows);
          const std::string name = "p" + std::to_string(gpu) + " " + std::to_string(selected);
          ASSERT_THAT(texts, ::testing::Contains(name)) << rows;
          int seen = 0, hidden = 0, all = 0;
          for (const std::string& text : texts) seen += text.starts_with("p") ? 1 : 0;
          for (const int one : processes) all += one;
          const std::string& last = texts.back();
          for (std::size_t at = last.find('+'); at != std::string::npos; at = last.find('+', at)) {
            hidden += std::stoi(last.substr(++at));
          }
          if (rows > 1) {
            ASSERT_EQ(seen + hidden, all) << rows << " " << last;
          }
        }
      }
    }
  }
}

/// As a user meets it: 40 processes on 80 x 24, and the arrow down.
TEST(ScreenScroll, TheScreenShowsWhatTheKeysSteer) {
  Snapshot snapshot = testing::two_engines();
  for (int i = 0; i < 38; ++i) {
    ProcessFigures process = testing::idle_engine();
    process.pid = 30000 + i;
    snapshot.gpus[0].processes.push_back(process);
  }
  TopSession session(1);
  session.take(snapshot);
  EXPECT_THAT(plain_text(session.draw(80, 24, "")),
              AllOf(HasSubstr("+22 more below"), Not(HasSubstr("above")), HasSubstr("q quit")));
  for (int i = 0; i < 40; ++i) {
    session.press(kKeyDown);
    ASSERT_NE(session.selected_process(), nullptr);
    const std::string pid = std::to_string(session.selected_process()->pid);
    bool marked = false;
    const std::vector<Line> lines = session.draw(80, 24, "");
    ASSERT_EQ(lines.size(), 24u);
    for (const Line& line : lines) {
      if (line.empty() || line.back().style != Style::kSelected) continue;
      marked = line.back().text.find(" " + pid + " ") != std::string::npos;
    }
    ASSERT_TRUE(marked) << pid << "\n" << plain_text(lines);
    ASSERT_THAT(plain_text(lines), HasSubstr("      PID NAME"));
  }
  EXPECT_THAT(plain_text(session.draw(80, 24, "")),
              AllOf(HasSubstr("+22 more above"), Not(HasSubstr("below"))));
}

}  // namespace
}  // namespace kvshim::cli
