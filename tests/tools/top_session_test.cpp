#include "tools/kvshim/top_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tools/snapshots.h"

namespace kvshim::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Request = TopSession::Request;

TopSession session_with_engines() {
  TopSession session(1);
  session.take(testing::two_engines_before());
  session.take(testing::two_engines());
  return session;
}

std::string drawn(TopSession& session) { return plain_text(session.draw(80, 24, "")); }

TEST(TopSession, SelectsInTheOrderShown) {
  TopSession session = session_with_engines();
  EXPECT_EQ(session.selected_process(), nullptr);
  session.press(kKeyDown);
  ASSERT_NE(session.selected_process(), nullptr);
  EXPECT_EQ(session.selected_process()->pid, 1619);
  session.press(kKeyDown);
  EXPECT_EQ(session.selected_process()->pid, 20417);
  session.press(kKeyDown);  // the last
  EXPECT_EQ(session.selected_process()->pid, 20417);
  session.press(kKeyUp);
  EXPECT_EQ(session.selected_process()->pid, 1619);
}

TEST(TopSession, ForgetsASelectionThatEnded) {
  TopSession session = session_with_engines();
  session.press(kKeyDown);
  Snapshot without = testing::two_engines(102);
  without.gpus[0].processes.erase(without.gpus[0].processes.begin());
  session.take(without);
  EXPECT_EQ(session.selected_process(), nullptr);
}

TEST(TopSession, AsksForALimitAndGivesWhatWasTyped) {
  TopSession session = session_with_engines();
  EXPECT_EQ(session.press('l'), Request::kNone);  // selects the first by itself
  EXPECT_THAT(drawn(session), HasSubstr("limit of 1619 (20GiB, 50%, none; escape: leave it):"));
  for (const char key : std::string("50%q")) session.press(key);  // q is no key while asked
  session.press(kKeyBackspace);
  EXPECT_EQ(session.press(kKeyEnter), Request::kLimit);
  EXPECT_EQ(session.typed(), "50%");
  EXPECT_THAT(drawn(session), Not(HasSubstr("limit of")));
}

TEST(TopSession, LeavesTheLimitOnEscapeAndOnNothingTyped) {
  TopSession session = session_with_engines();
  session.press('l');
  session.press('5');
  EXPECT_EQ(session.press(kKeyEscape), Request::kNone);
  session.press('l');
  EXPECT_EQ(session.press(kKeyEnter), Request::kNone);
  EXPECT_EQ(session.press('q'), Request::kQuit);
}

TEST(TopSession, SteersOnlyWhereThereIsAProcess) {
  TopSession empty(1);
  empty.take({});
  EXPECT_EQ(empty.press('r'), Request::kNone);
  EXPECT_THAT(drawn(empty), HasSubstr("there is no process to steer"));
  TopSession session = session_with_engines();
  EXPECT_EQ(session.press('r'), Request::kRelease);
  EXPECT_EQ(session.press('p'), Request::kPause);
}

TEST(TopSession, ShowsRatesFromTheSecondSampleOn) {
  TopSession session(1);
  session.take(testing::two_engines_before());
  EXPECT_THAT(drawn(session), Not(HasSubstr("3.00G")));
  session.take(testing::two_engines());
  EXPECT_THAT(drawn(session), HasSubstr("3.00G"));
}

TEST(TopSession, SaysAMessageUntilTheNextKey) {
  TopSession session = session_with_engines();
  session.say("it was so");
  EXPECT_THAT(drawn(session), HasSubstr("it was so"));
  session.press(kKeyDown);
  EXPECT_THAT(drawn(session), Not(HasSubstr("it was so")));
}

TEST(TopSession, SortsAndHelps) {
  TopSession session = session_with_engines();
  session.press('s');
  EXPECT_EQ(session.view().sort, "other");
  session.press('S');
  EXPECT_EQ(session.view().sort, "kv");
  session.press('?');
  EXPECT_THAT(drawn(session), HasSubstr("this help"));
  session.press('h');
  EXPECT_THAT(drawn(session), Not(HasSubstr("this help")));
}

TEST(TopSession, ChangesTheIntervalWithinBounds) {
  TopSession session = session_with_engines();
  for (int i = 0; i < 20; ++i) session.press('+');
  EXPECT_DOUBLE_EQ(session.interval(), 0.1);
  for (int i = 0; i < 20; ++i) session.press('-');
  EXPECT_DOUBLE_EQ(session.interval(), 60);
}

}  // namespace
}  // namespace kvshim::cli
