#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "heuristics/kernel_catalog.h"
#include "heuristics/profile_data.h"
#include "heuristics/profiles.h"

namespace kvshim::heuristics {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ProfileFile {
 public:
  explicit ProfileFile(const std::string& text)
      : path_(::testing::TempDir() + "profile" + std::to_string(getpid()) + ".toml") {
    std::ofstream(path_) << text;
  }
  ~ProfileFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::vector<std::string> errors_of(const std::string& text) {
  std::vector<std::string> errors;
  EXPECT_FALSE(parse_profile(text, "p.toml", &errors).has_value());
  return errors;
}

TEST(Profiles, EveryBuiltInProfileParses) {
  std::size_t count = 0;
  for (const EmbeddedProfile* embedded = kEmbeddedProfiles; embedded->name != nullptr; ++embedded) {
    std::vector<std::string> errors;
    EXPECT_TRUE(parse_profile(embedded->text, embedded->name, &errors));
    EXPECT_THAT(errors, IsEmpty()) << embedded->name;
    ++count;
  }
  EXPECT_GE(count, 5u);
  EXPECT_EQ(Profiles::built_in().impl().profiles.size(), count);
}

TEST(Profiles, ASyntaxErrorHasLineAndColumn) {
  EXPECT_THAT(errors_of("name = \"x\"\n[[pool]\n"), ElementsAre(HasSubstr("p.toml:2:8: ")));
}

TEST(Profiles, EachMistakeIsNamedAtItsPlace) {
  EXPECT_THAT(errors_of("name = \"x\"\nnmae = \"y\"\n"),
              ElementsAre("p.toml:2:1: unknown key \"nmae\""));
  EXPECT_THAT(errors_of("[[process]]\ncommand_line = \"a\"\n"),
              ElementsAre(HasSubstr("\"name\" is missing")));
  EXPECT_THAT(errors_of("name = \"x\"\n[[pool]]\nname = \"p\"\npython = '('\n"),
              ElementsAre(HasSubstr("p.toml:4:10: the pattern \"(\" does not compile")));
  EXPECT_THAT(errors_of("name = \"x\"\n[[pool]]\nname = \"p\"\npython = 'a'\nmin_size = -1\n"),
              ElementsAre(HasSubstr("p.toml:5:12: \"min_size\" must be an integer")));
  EXPECT_THAT(errors_of("name = \"x\"\n[[pool]]\nname = \"p\"\n"),
              ElementsAre(HasSubstr("p.toml:2:1: needs a call-site pattern")));
}

TEST(Profiles, AWriterMustBeCompleteAndConsistent) {
  const std::string head =
      "name = \"x\"\n[[kernel]]\nname = \"k\"\nmatch = 'k'\nrole = \"writer\"\n";
  EXPECT_THAT(errors_of(head), ::testing::Contains(HasSubstr("must list its parameters")));
  const std::string parameters = head + "parameters = [\"s: ptr\", \"n: i32\"]\n";
  const std::string writer = parameters +
                             "[kernel.writer]\nslots = \"s\"\nslot_type = \"i64\"\ncount = \"n\"\n"
                             "block = 1\n[[kernel.writer.destination]]\nbase = \"s\"\n"
                             "slot_stride = 0\nlength = 4\n";
  std::vector<std::string> errors;
  EXPECT_TRUE(parse_profile(writer + "block_stride = \"n * 4\"\n", "p.toml", &errors));
  EXPECT_THAT(errors, IsEmpty());
  EXPECT_THAT(errors_of(writer + "block_stride = \"m * 4\"\n"),
              ElementsAre(HasSubstr("p.toml:16:16: \"m * 4\", column 1: unknown name \"m\"")));
  EXPECT_THAT(errors_of(writer), ElementsAre(HasSubstr("\"block_stride\" is missing")));
  EXPECT_THAT(errors_of(writer + "block_stride = \"element\"\n"),
              ElementsAre(HasSubstr("unknown name \"element\"")));
  EXPECT_THAT(errors_of(head + "parameters = [\"s ptr\"]\n"),
              ::testing::Contains(HasSubstr("p.toml:6:15: \"s ptr\" is not \"name: type\"")));
}

TEST(Profiles, AWriterMayHaveSeveralForms) {
  const std::string head =
      "name = \"x\"\n[[kernel]]\nname = \"k\"\nmatch = '^k$'\nrole = \"writer\"\n"
      "parameters = [\"s: ptr\", \"n: i64\"]\n";
  const auto form = [](const std::string& element, const std::string& demand) {
    return "[[kernel.writer]]\nelement = " + element +
           "\nslots = \"s\"\nslot_type = \"i64\"\ncount = 1\nblock = 1\nequal = [\"" + demand +
           "\"]\n[[kernel.writer.destination]]\nbase = \"s\"\nblock_stride = \"element\"\n"
           "slot_stride = 0\nlength = \"3 * element\"\n";
  };
  const std::string second = form("\"n / 2\"", "n % 2 == 0");
  Profiles profiles = Profiles::built_in();
  const ProfileFile file(head + form("5", "n == 7") + second);
  ASSERT_THAT(profiles.add_file(file.path()), IsEmpty());
  const KernelCatalog catalog(profiles);
  const auto length_of = [&](std::int64_t n) -> std::int64_t {
    const std::uint64_t slots = 64;
    const void* const params[] = {&slots, &n};
    const auto kernel = catalog.classify("k", std::vector<ParamLayout>{{0, 8}, {8, 8}});
    const auto call = kernel->writer_call({params, {1, 1, 1}, {1, 1, 1}});
    return call ? static_cast<std::int64_t>(call->destinations[0].length) : -1;
  };
  EXPECT_EQ(length_of(7), 15) << "the first that holds counts";
  EXPECT_EQ(length_of(8), 12);
  EXPECT_EQ(length_of(9), -1) << "none holds";
  EXPECT_EQ(length_of(0), -1) << "an element has a byte at least";
  EXPECT_EQ(length_of(-8), -1);

  EXPECT_THAT(errors_of(head + form("5", "n == 7") + form("\"m\"", "n == 8")),
              ElementsAre(HasSubstr("p.toml:20:11: \"m\", column 1: unknown name \"m\"")));
  EXPECT_THAT(errors_of(head + form("\"element\"", "n == 7")),
              ElementsAre(HasSubstr("unknown name \"element\"")));
  EXPECT_THAT(errors_of(head + second + second.substr(0, second.find("element")) + "block = 1\n"),
              ::testing::Contains(HasSubstr("\"slots\" is missing")));
  EXPECT_THAT(errors_of(head + "writer = 5\n"),
              ElementsAre(HasSubstr("p.toml:7:10: \"writer\" must be a table")));
  EXPECT_THAT(errors_of(head + "writer = [1]\n"),
              ElementsAre(HasSubstr("\"writer\" must be a table")));
}

TEST(Profiles, ABadFileLeavesTheProfilesAsTheyWere) {
  Profiles profiles = Profiles::built_in();
  const std::size_t before = profiles.impl().profiles.size();
  const ProfileFile bad("name = 5\n");
  EXPECT_THAT(profiles.add_file(bad.path()),
              ElementsAre(bad.path() + ":1:8: \"name\" must be a string"));
  EXPECT_EQ(profiles.impl().profiles.size(), before);
  EXPECT_THAT(profiles.add_file("/nowhere/p.toml"), ElementsAre(HasSubstr("No such file")));
  EXPECT_THAT(profiles.add_file("/dev/zero"), ElementsAre("/dev/zero: not a regular file"));
  EXPECT_EQ(profiles.impl().profiles.size(), before);
}

TEST(Profiles, AUsersEntryGoesBeforeTheBuiltInOnes) {
  Profiles profiles = Profiles::built_in();
  const ProfileFile file(
      "name = \"mine\"\n[[kernel]]\nname = \"attention\"\nmatch = '^my_reader$'\nrole = "
      "\"reader\"\n");
  EXPECT_THAT(profiles.add_file(file.path()), IsEmpty());
  const KernelCatalog catalog(profiles);
  const std::vector<ParamLayout> params = {{0, 8}};
  const auto kernel = catalog.classify("my_reader", params);
  EXPECT_EQ(kernel->role, KernelRole::kReader);
  EXPECT_EQ(kernel->reason, "mine: attention");
  EXPECT_EQ(catalog.classify("my_reader2", params)->role, KernelRole::kUnknown);
}

}  // namespace
}  // namespace kvshim::heuristics
