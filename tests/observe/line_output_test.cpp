#include "observe/line_output.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace kvshim::log {
namespace {

std::string contents_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class LineOutputTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/kvshim-line-output-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/log";
  }
  void TearDown() override {
    std::remove(path_.c_str());
    std::remove((folder_ + "/other").c_str());
    rmdir(folder_.c_str());
  }

  std::string folder_;
  std::string path_;
};

TEST_F(LineOutputTest, AppendsToWhatTheFileHolds) {
  std::ofstream(path_) << "before\n";
  LineOutput output;
  ASSERT_TRUE(output.append_to(path_));
  EXPECT_TRUE(output.write_line("after\n"));
  EXPECT_EQ(contents_of(path_), "before\nafter\n");
}

TEST_F(LineOutputTest, ReportsAPathThatCannotBeOpened) {
  LineOutput output;
  errno = 0;
  EXPECT_FALSE(output.append_to(folder_ + "/missing/log"));
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(LineOutputTest, NeverWaitsForSomebodyToReadAPipe) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  LineOutput output;
  EXPECT_FALSE(output.append_to(path_));
  EXPECT_EQ(errno, ENXIO);
  EXPECT_FALSE(output.append_to(folder_));
  EXPECT_EQ(errno, EISDIR);
}

TEST_F(LineOutputTest, APipeThatIsReadTakesLinesUntilItIsFull) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const int reader = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK);
  LineOutput output;
  ASSERT_TRUE(output.append_to(path_));
  EXPECT_TRUE(output.write_line("a line\n"));
  char buffer[64];
  EXPECT_EQ(::read(reader, buffer, sizeof buffer), 7);
  output.close_soon();
  const std::string line = std::string(4000, 'x') + "\n";
  const auto start = std::chrono::steady_clock::now();
  bool written = true;
  for (int i = 0; i < 50 && written; ++i) written = output.write_line(line);
  EXPECT_FALSE(written);
  EXPECT_EQ(errno, ETIMEDOUT);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  ::close(reader);
}

TEST_F(LineOutputTest, CutsLongLinesButEndsThem) {
  LineOutput output;
  ASSERT_TRUE(output.append_to(path_));
  EXPECT_TRUE(output.write_line(std::string(10000, 'x') + "\n"));
  const std::string text = contents_of(path_);
  EXPECT_EQ(text.size(), LineOutput::kMaxLine);
  EXPECT_TRUE(text.ends_with("x ...\n"));
}

// A program that turns into a daemon closes our descriptor and opens a file of
// its own under the same number.
TEST_F(LineOutputTest, NeverWritesToAnotherFileUnderItsNumber) {
  LineOutput output;
  ASSERT_TRUE(output.append_to(path_));
  // The next free number tells which one the output has.
  const int above = ::open("/dev/null", O_RDONLY);
  const int ours = above - 1;
  ::close(above);
  const std::string other = folder_ + "/other";
  const int foreign = ::open(other.c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_EQ(::dup2(foreign, ours), ours);
  EXPECT_TRUE(output.write_line("a line\n"));
  EXPECT_EQ(contents_of(other), "");
  EXPECT_EQ(contents_of(path_), "a line\n");
  ::close(foreign);
  ::close(ours);
}

TEST(LineOutputPipeTest, AReaderThatDoesNotReadCannotHoldTheEndUp) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    LineOutput output;
    output.close_soon();
    const std::string line = std::string(4000, 'x') + "\n";
    for (int i = 0; i < 200; ++i) output.write_line(line);  // 800 KB into a pipe of 64
    _exit(0);
  }
  const auto start = std::chrono::steady_clock::now();
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  ::close(ends[0]);
  ::close(ends[1]);
}

}  // namespace
}  // namespace kvshim::log
