#include "text/text_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace kvshim::text {
namespace {

class TextFileTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/kvshim-text-file-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  ReadProblem problem_;
};

TEST_F(TextFileTest, ReadsAsMuchAsIsAllowed) {
  std::ofstream(folder_ + "/file") << std::string(10000, 'x');
  EXPECT_EQ(read_text_file(folder_ + "/file", 10000, &problem_), std::string(10000, 'x'));
  EXPECT_FALSE(read_text_file(folder_ + "/file", 9999, &problem_).has_value());
  EXPECT_EQ(problem_.error, EFBIG);
  EXPECT_EQ(read_text_file("/dev/null", 10, &problem_), "");
}

TEST_F(TextFileTest, NeverWaitsForWhatIsNoFile) {
  const std::string fifo = folder_ + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, std::string("/dev/zero")}) {
    EXPECT_FALSE(read_text_file(path, 1 << 20, &problem_).has_value()) << path;
    EXPECT_EQ(problem_.words, "not a regular file") << path;
  }
  EXPECT_FALSE(read_text_file(folder_, 10, &problem_).has_value());
  EXPECT_EQ(problem_.error, EISDIR);
  EXPECT_FALSE(read_text_file(folder_ + "/missing", 10, &problem_).has_value());
  EXPECT_EQ(problem_.error, ENOENT);
}

}  // namespace
}  // namespace kvshim::text
