#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/kvshim/engine_checks.h"
#include "tools/kvshim/machine_checks.h"

namespace kvshim::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

DriverFacts good_driver() {
  DriverFacts facts;
  facts.path = "/lib/libcuda.so.1";
  facts.version = 13000;
  facts.param_info = true;
  facts.gpus = {{"a GPU", "GPU-1", std::uint64_t{80} << 30, 90, true}};
  return facts;
}

/// The worst of the findings.
Level worst(const Findings& findings) {
  Level level = Level::kOk;
  for (const Finding& finding : findings) level = std::max(level, finding.level);
  return level;
}

TEST(DriverFindings, AreGoodForADriverThatCanDoAll) {
  EXPECT_EQ(worst(judge_driver(good_driver())), Level::kOk);
}

TEST(DriverFindings, SayWhatAnOldDriverMeans) {
  DriverFacts facts = good_driver();
  facts.version = 12030;
  const Findings findings = judge_driver(facts);
  EXPECT_EQ(findings[0].level, Level::kWarn);
  EXPECT_THAT(findings[0].text, HasSubstr("CUDA 12.3"));
  EXPECT_THAT(findings[0].remedy, HasSubstr("550"));
}

TEST(DriverFindings, FailWithoutDriverGpuOrVirtualMemory) {
  DriverFacts facts;
  facts.failure = "cuInit answers CUDA_ERROR_NO_DEVICE (100)";
  EXPECT_EQ(worst(judge_driver(facts)), Level::kFail);
  facts = good_driver();
  facts.gpus.clear();
  EXPECT_EQ(worst(judge_driver(facts)), Level::kFail);
  facts = good_driver();
  facts.gpus[0].virtual_memory = false;
  EXPECT_EQ(worst(judge_driver(facts)), Level::kFail);
  facts = good_driver();
  facts.gpus[0].compute_capability = 70;
  EXPECT_EQ(worst(judge_driver(facts)), Level::kFail);
}

TEST(DriverFindings, WarnOfMps) {
  DriverFacts facts = good_driver();
  facts.gpus[0].mps = true;
  const Findings findings = judge_driver(facts);
  EXPECT_EQ(worst(findings), Level::kWarn);
  EXPECT_THAT(findings.back().text, HasSubstr("one client's fault stops all"));
  EXPECT_THAT(findings.back().remedy, HasSubstr("under_mps"));
}

TEST(PreloadFindings, TellOthersThatWrapTheDriver) {
  EXPECT_THAT(judge_preloads("", ""), IsEmpty());
  EXPECT_THAT(judge_preloads("/opt/lib/libkvshim.so", ""), IsEmpty());
  EXPECT_EQ(worst(judge_preloads("/usr/lib/libjemalloc.so.2:/opt/libkvshim.so", "")), Level::kOk);
  EXPECT_EQ(worst(judge_preloads("/opt/libkvshim.so /usr/local/vgpu/libvgpu.so", "")),
            Level::kWarn);
  EXPECT_EQ(worst(judge_preloads("", "/usr/local/vgpu/libvgpu.so\n")), Level::kWarn);
}

TEST(PreloadFindings, FailForTwoOfOurs) {
  EXPECT_EQ(worst(judge_preloads("/a/libkvshim.so:/b/libkvshim.so", "")), Level::kFail);
}

TEST(CommandFindings, NameWhatKeepsPoolsFromBeingElastic) {
  const Findings sleep =
      check_command({"vllm", "serve", "model", "--enable-sleep-mode"}, "/bin/true", {});
  EXPECT_EQ(worst(sleep), Level::kFail);
  EXPECT_THAT(sleep[0].text, HasSubstr("sleep mode"));
  EXPECT_THAT(sleep[0].remedy, HasSubstr("--enable-sleep-mode"));
  const Findings connector =
      check_command({"vllm", "serve", "--kv-transfer-config", "{}"}, "/bin/true", {});
  EXPECT_EQ(worst(connector), Level::kFail);
  const Findings segments = check_command(
      {"vllm", "serve"}, "/bin/true", {{"PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"}});
  EXPECT_EQ(worst(segments), Level::kFail);
  EXPECT_EQ(worst(check_command({"vllm", "serve", "model"}, "/bin/true", {})), Level::kOk);
}

TEST(CommandFindings, FailForAProgramThatIsNotThere) {
  EXPECT_EQ(worst(check_command({"vlm"}, "", {})), Level::kFail);
}

TEST(ConfigurationFindings, CarryThePlaceInTheFile) {
  const Findings findings = judge_configuration("/k.toml", false, {"/k.toml:3:7: bad"});
  ASSERT_THAT(findings, SizeIs(1));
  EXPECT_EQ(findings[0].level, Level::kFail);
  EXPECT_THAT(findings[0].text, HasSubstr("/k.toml:3:7"));
  EXPECT_EQ(worst(judge_configuration("defaults", true, {})), Level::kWarn);
  EXPECT_EQ(worst(judge_configuration("defaults", false, {})), Level::kOk);
}

TEST(FolderFindings, WarnOfAFolderThatOthersCanWrite) {
  const Findings findings = check_folders("/tmp", "/nowhere");
  EXPECT_EQ(findings[0].level, Level::kWarn);
  EXPECT_EQ(findings[1].level, Level::kFail);
  EXPECT_THAT(findings[1].text, HasSubstr("/nowhere"));
}

}  // namespace
}  // namespace kvshim::cli
