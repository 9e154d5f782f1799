// The engine itself: its outputs depend on the requests alone. Run on whatever
// libcuda.so.1 the engine finds (in the build tree the simulator).
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>

namespace {

/// The engine's standard output; ends with its exit status as "status N".
std::string run(const std::string& arguments) {
  const std::string command =
      std::string(KVSHIM_ENGINE) + " " + arguments + " 2>&1; echo status $?";
  std::FILE* pipe = popen(command.c_str(), "re");
  std::string output;
  std::array<char, 4096> part{};
  for (std::size_t got = 0; (got = std::fread(part.data(), 1, part.size(), pipe)) != 0;) {
    output.append(part.data(), got);
  }
  pclose(pipe);
  return output;
}

/// The digest over all bursts ("" when the engine failed).
std::string digest(const std::string& arguments) {
  const std::string output = run(arguments);
  EXPECT_NE(std::string::npos, output.find("status 0")) << arguments << "\n" << output;
  const auto place = output.rfind("\ndigest ");
  return place == std::string::npos ? "" : output.substr(place + 8, 16);
}

TEST(EngineTest, TheWayInDoesNotMatter) {
  const std::string expected = digest("");
  EXPECT_EQ(16u, expected.size());
  EXPECT_EQ(expected, digest("--entry dlsym"));
  EXPECT_EQ(expected, digest("--entry getproc"));
}

TEST(EngineTest, GraphsComputeTheSame) { EXPECT_EQ(digest(""), digest("--graphs")); }

TEST(EngineTest, TwoStreamsComputeTheSame) {
  EXPECT_EQ(digest(""), digest("--streams 2"));
  EXPECT_EQ(digest(""), digest("--streams 2 --graphs"));
}

TEST(EngineTest, TheOrderOfBlocksDoesNotMatter) {
  const std::string few = "--blocks 40 --bursts 6 ";
  EXPECT_EQ(digest(few + "--order fifo"), digest(few + "--order lifo"));
}

TEST(EngineTest, SharedPrefixesReadWhatWasWrittenBefore) {
  const std::string prompts = "--prefix --bursts 5 --prompt 100 ";
  EXPECT_EQ(digest(prompts), digest(prompts + "--recompute"));
  EXPECT_NE(std::string::npos, run(prompts).find("hits 256")) << "blocks were shared";
}

TEST(EngineTest, OutputsDependOnTheSeedAndTheShape) {
  EXPECT_NE(digest(""), digest("--seed 2"));
  EXPECT_NE(digest(""), digest("--layers 3"));
}

TEST(EngineTest, TheUnknownKernelBuildsOnWhatItLeft) {
  const std::string one = digest("--unknown --bursts 1"), two = digest("--unknown --bursts 2");
  EXPECT_NE(one, digest("--bursts 1"));
  EXPECT_NE(one, two);
  EXPECT_EQ(two, digest("--unknown --bursts 2 --graphs"));
}

TEST(EngineTest, MeasuredDigestStays) {
  // The reference for every device: a change of kernels or scheduling that
  // alters it must be meant.
  EXPECT_EQ("e870943270e00242", digest(""));
}

TEST(EngineTest, RefusesToStartWhenTheShareIsNotFree) {
  EXPECT_NE(std::string::npos, run("--utilization 1.5").find("status 3"));
  EXPECT_NE(std::string::npos, run("--utilization 0.05").find("status 0"));
}

TEST(EngineTest, SaysWhatItDidAsJson) {
  const std::string output = run("--json --memory --bursts 1");
  EXPECT_EQ(0u, output.find("{\"device\":\"")) << output;
  EXPECT_NE(std::string::npos, output.find("\"free_after_idle\":")) << output;
}

}  // namespace
