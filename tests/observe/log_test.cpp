#include "observe/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace kvshim::log {
namespace {

using config::LogLevel;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

struct Outcome {
  int status = 0;
  pid_t process = 0;
  std::string error_output;
  std::vector<std::string> lines() const {
    std::istringstream in(error_output);
    std::vector<std::string> result;
    for (std::string line; std::getline(in, line);) result.push_back(line);
    return result;
  }
};

/// Runs `body` in a process of its own (the log is once per process) and
/// collects its standard error.
Outcome in_own_process(const std::function<void()>& body) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  Outcome outcome;
  outcome.process = fork();
  if (outcome.process == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    body();
    _exit(0);
  }
  ::close(ends[1]);
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    outcome.error_output.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(ends[0]);
  ::waitpid(outcome.process, &outcome.status, 0);
  EXPECT_TRUE(WIFEXITED(outcome.status)) << "signal " << WTERMSIG(outcome.status);
  return outcome;
}

std::size_t threads_of_this_process() {
  std::size_t count = 0;
  DIR* folder = opendir("/proc/self/task");
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

TEST(LogTest, SaysWhoseLineItIsAndHowSevere) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kDebug, "");
    debug("one");
    info("two");
    warning("three");
    error("four");
    close();
  });
  const std::string me = "kvshim[" + std::to_string(outcome.process) + "]: ";
  EXPECT_THAT(outcome.lines(), ElementsAre(me + "debug: one", me + "info: two",
                                           me + "warning: three", me + "error: four"));
}

TEST(LogTest, IsInertBeforeOpen) {
  const Outcome outcome = in_own_process([] {
    const std::size_t threads = threads_of_this_process();
    error("nobody hears this");
    close();
    abandon_after_fork();
    if (enabled(LogLevel::kError) || threads_of_this_process() != threads) _exit(1);
  });
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.error_output, "");
}

TEST(LogTest, OffOpensNothing) {
  const Outcome outcome = in_own_process([] {
    const std::size_t threads = threads_of_this_process();
    open(LogLevel::kOff, "/tmp/kvshim-log-test-must-not-exist");
    error("dropped");
    if (threads_of_this_process() != threads) _exit(1);
    if (::access("/tmp/kvshim-log-test-must-not-exist", F_OK) == 0) _exit(2);
  });
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.error_output, "");
}

TEST(LogTest, DropsWhatIsLessSevereThanTheLevel) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kWarning, "");
    info("quiet");
    warning("loud");
    close();
  });
  ASSERT_EQ(outcome.lines().size(), 1u);
  EXPECT_THAT(outcome.lines()[0], EndsWith("warning: loud"));
}

TEST(LogTest, MarksEveryLineOfALongerText) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "");
    info("first\nsecond");
    close();
  });
  ASSERT_EQ(outcome.lines().size(), 2u);
  for (const std::string& line : outcome.lines()) EXPECT_THAT(line, StartsWith("kvshim["));
}

TEST(LogTest, InAFileLinesSayWhenItHappened) {
  char path[] = "/tmp/kvshim-log-test-XXXXXX";
  ::close(::mkstemp(path));
  in_own_process([&] {
    setenv("TZ", "Asia/Tokyo", 1);
    tzset();
    open(LogLevel::kInfo, path);
    write(LogLevel::kInfo, "then",
          std::chrono::system_clock::time_point(std::chrono::milliseconds(1'000'000'000'123)));
    info("now");
    close();
  });
  std::ifstream file(path);
  std::string then, now;
  std::getline(file, then);
  std::getline(file, now);
  EXPECT_THAT(then, StartsWith("2001-09-09T01:46:40.123Z kvshim["));
  EXPECT_THAT(then, EndsWith("info: then"));
  EXPECT_NE(now.substr(0, 10), "2001-09-09");
  std::remove(path);
}

TEST(LogTest, FallsBackToStandardErrorAndSaysSo) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "/nonexistent-folder/log");
    info("still here");
    close();
  });
  ASSERT_EQ(outcome.lines().size(), 2u);
  EXPECT_THAT(outcome.lines()[0], HasSubstr("cannot open log_file /nonexistent-folder/log"));
  EXPECT_THAT(outcome.lines()[1], EndsWith("still here"));
}

TEST(LogTest, AFullDiskIsToldOnce) {
  if (::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "/dev/full");
    info("one");
    info("two");
    close();
  });
  EXPECT_THAT(outcome.lines(),
              ElementsAre(HasSubstr("error: cannot write to log_file /dev/full (No "
                                    "space left on device), log lines are lost")));
}

TEST(LogTest, ClosingTwiceAndWritingAfterwardsDoNothing) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "");
    info("only");
    close();
    close();
    info("too late");
  });
  EXPECT_EQ(outcome.lines().size(), 1u);
}

TEST(LogTest, ManyThreadsNeverMixTheirLines) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "");
    std::vector<std::thread> writers;
    for (int t = 0; t < 4; ++t) {
      writers.emplace_back([] {
        for (int i = 0; i < 100; ++i) info(std::string(200, 'x'));
      });
    }
    for (std::thread& writer : writers) writer.join();
    close();
  });
  EXPECT_EQ(outcome.lines().size(), 400u);
  for (const std::string& line : outcome.lines()) {
    EXPECT_THAT(line, StartsWith("kvshim["));
    EXPECT_THAT(line, EndsWith("info: " + std::string(200, 'x')));
  }
}

// The pipe is full and nobody reads: the writers go on at full speed, and the
// end of the process waits for a fraction of a second only.
TEST(LogTest, AStuckReaderBlocksNeitherWritersNorTheEnd) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    const auto start = std::chrono::steady_clock::now();
    open(LogLevel::kInfo, "");
    for (int i = 0; i < 20000; ++i) info(std::string(100, 'x'));
    close();
    _exit(std::chrono::steady_clock::now() - start < std::chrono::seconds(10) ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(LogTest, SaysHowManyLinesWereDropped) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    open(LogLevel::kInfo, "");
    for (int i = 0; i < 20000; ++i) info(std::string(100, 'x'));
    close();
    _exit(0);
  }
  ::close(ends[1]);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the queue overruns meanwhile
  std::string text;
  char buffer[65536];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_THAT(text, HasSubstr(" log lines were dropped"));
  ::close(ends[0]);
}

TEST(LogTest, AReaderThatIsGoneDoesNotEndTheProcess) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    open(LogLevel::kInfo, "");
    info("to nobody");
    close();
    _exit(7);
  }
  ::close(ends[0]);
  ::close(ends[1]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(LogTest, AForkedChildIsQuietUntilItOpensItsOwn) {
#if defined(KVSHIM_SANITIZE_THREAD) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer's own locks may be held by another thread at the fork";
#endif
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "");
    const pid_t child = fork();
    if (child == 0) {
      info("from the child: not to be seen");
      close();  // the parent's thread isn't here: must not wait for it
      abandon_after_fork();
      open(LogLevel::kInfo, "");
      info("the child's own");
      close();
      _exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    info("parent");
    close();
    if (status != 0) _exit(1);
  });
  EXPECT_EQ(outcome.status, 0);
  ASSERT_EQ(outcome.lines().size(), 2u);
  EXPECT_THAT(outcome.lines()[0], EndsWith("info: the child's own"));
  EXPECT_THAT(outcome.lines()[1], HasSubstr(std::to_string(outcome.process)));
}

TEST(LogTest, TheHostsSignalHandlersNeverRunOnTheLogsThread) {
  const Outcome outcome = in_own_process([] {
    open(LogLevel::kInfo, "");
    sigset_t block;
    sigfillset(&block);
    pthread_sigmask(SIG_SETMASK, &block, nullptr);
    // With the only other thread blocked, the kernel would pick the log's.
    static volatile sig_atomic_t handled = 0;
    signal(SIGUSR1, [](int) { handled = 1; });
    ::kill(::getpid(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (handled != 0) _exit(1);
    close();
  });
  EXPECT_EQ(outcome.status, 0);
}

}  // namespace
}  // namespace kvshim::log
