#include "preload/status_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace kvshim::preload {
namespace {

using testing::HasSubstr;

std::string contents_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// A document whose every byte tells which one it is.
std::string document(char letter, std::size_t bytes) { return std::string(bytes, letter) + "\n"; }

bool is_whole(const std::string& text) {
  return text == document('s', 200) || text == document('l', 300'000) || text == document('e', 7);
}

class StatusFileTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/kvshim-status-file-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/1.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_, path_;
};

// The housekeeping thread writes while the process exits.
TEST_F(StatusFileTest, TwoWritersNeverTearItAndTheLastWordStays) {
  for (int round = 0; round < 200; ++round) {
    StatusFile file(path_);
    file.write(document('l', 300'000));
    std::atomic<bool> go{false};
    std::thread thread([&] {
      while (!go.load()) {
      }
      for (int i = 0; i < 5; ++i)
        file.write(document(i % 2 == 0 ? 's' : 'l', i % 2 == 0 ? 200 : 300'000));
    });
    go.store(true);
    std::this_thread::sleep_for(std::chrono::microseconds(20 * (round % 20)));
    EXPECT_TRUE(is_whole(contents_of(path_)));
    file.write_last(document('e', 7));
    EXPECT_EQ(contents_of(path_), document('e', 7));
    thread.join();
    ASSERT_EQ(contents_of(path_), document('e', 7)) << "round " << round;
  }
  EXPECT_FALSE(std::filesystem::exists(path_ + ".next"));
}

TEST_F(StatusFileTest, AFolderThatTakesNoFileIsToldOnce) {
  StatusFile file(folder_ + "/missing/1.json");
  EXPECT_EQ(file.take_complaint(), "");
  file.write("a");
  EXPECT_THAT(file.take_complaint(), HasSubstr("/missing/1.json can't be written: No such file"));
  file.write("b");
  file.write_last("c");
  EXPECT_EQ(file.take_complaint(), "");
}

TEST_F(StatusFileTest, APartIsNeverPutInPlace) {
  StatusFile file(path_);
  file.write("before");
  // What a full disk does: a part is written, the rest isn't.
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  file.write(document('l', 300'000));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(contents_of(path_), "before");
  EXPECT_FALSE(std::filesystem::exists(path_ + ".next"));
  EXPECT_THAT(file.take_complaint(), HasSubstr("File too large"));
}

}  // namespace
}  // namespace kvshim::preload
