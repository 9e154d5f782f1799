#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "config/option_table.h"
#include "tests/config/loaded_text.h"

namespace kvshim::config {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kRemedy = "build the target config_documents and commit what it rewrites";

std::string file_in_tree(const std::string& name) {
  std::ifstream in(std::string(KVSHIM_SOURCE_DIR) + "/" + name);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(DocumentsTest, TheSampleFileInTheTreeIsUpToDate) {
  EXPECT_EQ(file_in_tree("config/kvshim.sample.toml"), sample_file()) << kRemedy;
}

TEST(DocumentsTest, TheReferencePageInTheTreeIsUpToDate) {
  EXPECT_EQ(file_in_tree("docs/config.md"), reference_page()) << kRemedy;
}

TEST(DocumentsTest, TheSampleFileChangesNothing) {
  const Loaded loaded = load_for(sample_file());
  EXPECT_THAT(loaded.problems, IsEmpty());
  for (const OptionEntry& entry : option_table()) {
    EXPECT_EQ(entry.as_toml(loaded.options), entry.as_toml(Options())) << entry.name;
  }
}

// "#name" and "#[" start what a reader would uncomment; "# text" is prose.
TEST(DocumentsTest, EveryLineOfTheSampleIsGoodWhenUncommented) {
  std::istringstream in(sample_file());
  std::string uncommented;
  for (std::string line; std::getline(in, line);) {
    const bool setting = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    uncommented += (setting ? line.substr(1) : line) + "\n";
  }
  ProcessFacts facts;
  facts.command_lines = {"vllm serve model"};
  facts.environment = {{"CUDA_VISIBLE_DEVICES", "0"}};
  const Loaded loaded = load_for(uncommented, facts);
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.options.rules.size(), 2u);
  EXPECT_EQ(loaded.options.idle_timeout, std::chrono::seconds(30));
  EXPECT_EQ(loaded.options.min_size, Options().min_size);
}

TEST(DocumentsTest, TheReferencePageNamesEveryOptionAndItsVariable) {
  const std::string page = reference_page();
  for (const OptionEntry& entry : option_table()) {
    EXPECT_THAT(page, HasSubstr("### `" + std::string(entry.name) + "`"));
    EXPECT_THAT(page, HasSubstr("`" + environment_name(entry.name) + "`"));
  }
}

}  // namespace
}  // namespace kvshim::config
