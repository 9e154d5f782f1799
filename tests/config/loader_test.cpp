#include "config/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace kvshim::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class LoaderTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/kvshim-loader-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    std::filesystem::create_directories(folder_ + "/xdg/kvshim");
    std::filesystem::create_directories(folder_ + "/home/.config/kvshim");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
    return folder_ + "/" + name;
  }
  static Loaded load_with(std::vector<std::pair<std::string, std::string>> environment) {
    ProcessFacts facts;
    facts.environment = std::move(environment);
    return load(facts);
  }

  std::string folder_;
};

TEST_F(LoaderTest, TheFileNamedByTheUserComesFirst) {
  const std::string named = write("mine.toml", "idle_timeout = \"1s\"");
  write("xdg/kvshim/kvshim.toml", "idle_timeout = \"3s\"");
  const Loaded loaded =
      load_with({{"KVSHIM_CONFIG", named}, {"XDG_CONFIG_HOME", folder_ + "/xdg"}});
  EXPECT_EQ(loaded.source, named);
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::seconds(1));
}

TEST_F(LoaderTest, TheXdgFolderComesBeforeHomeAndOnlyTheFirstIsRead) {
  write("xdg/kvshim/kvshim.toml", "idle_timeout = \"3s\"");
  write("home/.config/kvshim/kvshim.toml", "idle_timeout = \"4s\"\nstatus = false");
  const Loaded loaded =
      load_with({{"XDG_CONFIG_HOME", folder_ + "/xdg"}, {"HOME", folder_ + "/home"}});
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::seconds(3));
  EXPECT_TRUE(loaded.options.status);
}

TEST_F(LoaderTest, HomeServesWhenXdgIsUnsetOrRelative) {
  write("home/.config/kvshim/kvshim.toml", "idle_timeout = \"4s\"");
  EXPECT_EQ(load_with({{"HOME", folder_ + "/home"}}).options.idle_timeout, std::chrono::seconds(4));
  EXPECT_EQ(
      load_with({{"HOME", folder_ + "/home"}, {"XDG_CONFIG_HOME", "xdg"}}).options.idle_timeout,
      std::chrono::seconds(4));
}

TEST_F(LoaderTest, WithoutAnyFileTheDefaultsHoldQuietly) {
  if (::access("/etc/kvshim/kvshim.toml", F_OK) == 0) GTEST_SKIP() << "this machine has one";
  const Loaded loaded = load_with({{"HOME", folder_ + "/nowhere"}});
  EXPECT_EQ(loaded.source, "defaults");
  EXPECT_THAT(loaded.problems, IsEmpty());
}

TEST_F(LoaderTest, AMissingFileThatWasNamedIsToldAndNoOtherTakesItsPlace) {
  write("xdg/kvshim/kvshim.toml", "status = false");
  const Loaded loaded = load_with(
      {{"KVSHIM_CONFIG", folder_ + "/missing.toml"}, {"XDG_CONFIG_HOME", folder_ + "/xdg"}});
  ASSERT_EQ(loaded.problems.size(), 1u);
  EXPECT_THAT(loaded.problems[0], HasSubstr("/missing.toml: can't be read (No such file"));
  EXPECT_TRUE(loaded.options.status);
  EXPECT_EQ(loaded.source, "defaults");
}

TEST_F(LoaderTest, FoldersFifosAndGiantsDoNotHangOrHurt) {
  EXPECT_THAT(load_with({{"KVSHIM_CONFIG", folder_}}).problems,
              ElementsAre(HasSubstr("Is a directory")));
  const std::string fifo = folder_ + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {fifo, std::string("/dev/zero")}) {
    const Loaded loaded = load_with({{"KVSHIM_CONFIG", path}});
    EXPECT_THAT(loaded.problems,
                ElementsAre(path + ": can't be read (not a regular file), named by KVSHIM_CONFIG; "
                                   "the defaults hold"));
    EXPECT_EQ(loaded.source, "defaults");
  }
  EXPECT_THAT(load_with({{"KVSHIM_CONFIG", "/dev/null"}}).problems, IsEmpty());
  const std::string giant = write("giant", std::string(2 << 20, '#'));
  EXPECT_THAT(load_with({{"KVSHIM_CONFIG", giant}}).problems,
              ElementsAre(HasSubstr("File too large")));
}

TEST_F(LoaderTest, SetsArriveThroughTheEnvironment) {
  const Loaded loaded = load_with({{"KVSHIM_CONFIG", "/dev/null"},
                                   {"KVSHIM_SET", "idle_timeout=7s\ncontents=disposable"},
                                   {"KVSHIM_IDLE_TIMEOUT", "8s"}});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::seconds(7));
  EXPECT_EQ(loaded.options.contents, Contents::kDisposable);
}

TEST_F(LoaderTest, DisableIsReportedWhateverTheFileSays) {
  const std::string file = write("f.toml", "enabled = true");
  EXPECT_TRUE(
      load_with({{"KVSHIM_CONFIG", file}, {"KVSHIM_DISABLE", "1"}}).disabled_by_environment);
  EXPECT_FALSE(load_with({{"KVSHIM_CONFIG", file}}).disabled_by_environment);
}

TEST_F(LoaderTest, ProblemsNameTheFileAsItWasNamed) {
  const std::string file = write("f.toml", "\nnonsense = 1\n");
  EXPECT_THAT(load_with({{"KVSHIM_CONFIG", file}}).problems,
              ElementsAre(file + ":2:1: unknown option \"nonsense\""));
}

}  // namespace
}  // namespace kvshim::config
