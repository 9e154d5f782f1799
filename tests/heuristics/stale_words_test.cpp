// The stale words traced with vLLM 0.22.1 (engines.md) are ignored; the words
// that are pointers are kept. Names as the driver reports them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "heuristics/kernel_catalog.h"
#include "tests/heuristics/launch_values.h"

namespace kvshim::heuristics {
namespace {

bool has(const KernelKnowledge& kernel, std::uint16_t param, std::uint16_t offset) {
  return std::find(kernel.words.begin(), kernel.words.end(), WordPlace{param, offset}) !=
         kernel.words.end();
}

bool is_read_only(const KernelKnowledge& kernel, std::uint16_t param, std::uint16_t offset) {
  const auto found = std::find(kernel.words.begin(), kernel.words.end(), WordPlace{param, offset});
  return found != kernel.words.end() &&
         kernel.word_is_read_only[static_cast<std::size_t>(found - kernel.words.begin())];
}

TEST(StaleWords, GatherTopKHasOnePointerInEachTensorInfo) {
  std::vector<ParamLayout> params;
  for (const std::size_t size :
       std::array<std::size_t, 16>{216, 4, 4, 1, 4, 4, 216, 4, 216, 4, 4, 4, 8, 8, 8, 4}) {
    const std::size_t end = params.empty() ? 0 : params.back().offset + params.back().size;
    const std::size_t alignment = std::min<std::size_t>(size, 8);
    params.push_back({(end + alignment - 1) / alignment * alignment, size});
  }
  const auto kernel = catalog().classify(
      "_ZN2at6native6mbtopk10gatherTopKIfjLi2EEEvNS_4cuda6detail10TensorInfoIKT_T0_EES8_S8_bjS8_"
      "NS5_"
      "IS6_S8_EES8_NS5_IlS8_EES8_jjPS6_PjSD_j",
      params);
  EXPECT_FALSE(has(*kernel, 6, 152)) << kernel->reason;
  EXPECT_FALSE(has(*kernel, 8, 120));
  EXPECT_TRUE(is_read_only(*kernel, 0, 0)) << "TensorInfo<float const>";
  EXPECT_TRUE(has(*kernel, 6, 0));
  EXPECT_FALSE(is_read_only(*kernel, 6, 0));
  EXPECT_EQ(kernel->words,
            (std::vector<WordPlace>{{0, 0}, {6, 0}, {8, 0}, {12, 0}, {13, 0}, {14, 0}}));
}

TEST(StaleWords, ReduceHasItsPointersAtTheEnd) {
  const auto kernel = catalog().classify(
      "_ZN2at6native13reduce_kernelILi512ELi1ENS0_8ReduceOpIfNS0_9ArgMaxOpsIfEEjlLi4ELi4EEEEEvT1_",
      std::vector<ParamLayout>{{0, 1064}});
  EXPECT_FALSE(has(*kernel, 0, 104)) << kernel->reason;
  EXPECT_TRUE(is_read_only(*kernel, 0, 1000)) << "source";
  for (const std::uint16_t offset : std::array<std::uint16_t, 5>{1008, 1016, 1024, 1032, 1040}) {
    EXPECT_TRUE(has(*kernel, 0, offset)) << offset;
    EXPECT_FALSE(is_read_only(*kernel, 0, offset)) << offset;
  }
  EXPECT_EQ(kernel->words.size(), 6u);
  // Another size is another form: nothing is known about it.
  EXPECT_EQ(
      catalog()
          .classify("_ZN2at6native13reduce_kernelILi512ELi1ENS0_8ReduceOpIfNS0_9ArgMaxOpsIfEEjl"
                    "Li4ELi4EEEEEvT1_",
                    std::vector<ParamLayout>{{0, 1072}})
          ->words.size(),
      134u);
}

TEST(StaleWords, StridedElementwiseClosureHoldsThreePointers) {
  const auto kernel = catalog().classify(
      "_ZN2at6native18elementwise_kernelILi128ELi2EZNS0_22gpu_kernel_impl_nocastINS0_"
      "13BinaryFunctorIfffNS0_15binary_internal10DivFunctorIfEEEEEEvRNS_18TensorIteratorBaseERKT_"
      "EUliE_EEviT1_",
      std::vector<ParamLayout>{{0, 4}, {8, 648}});
  EXPECT_FALSE(has(*kernel, 1, 600)) << kernel->reason;
  EXPECT_EQ(kernel->words, (std::vector<WordPlace>{{1, 608}, {1, 616}, {1, 624}}));
  EXPECT_FALSE(is_read_only(*kernel, 1, 608)) << "the output";
  EXPECT_TRUE(is_read_only(*kernel, 1, 616));
  EXPECT_TRUE(is_read_only(*kernel, 1, 624));
}

TEST(StaleWords, ScatterGatherClosureHoldsThreePointers) {
  const auto kernel = catalog().classify(
      "_ZN2at6native34_scatter_gather_elementwise_kernelILi128ELi8EZNS0_36_cuda_scatter_gather_"
      "internal_kernelILb0ENS0_10OpaqueTypeILi4EEElEclINS0_12TensorAssignEEEvRNS_"
      "14TensorIteratorEll"
      "lRKT_EUliE_EEviT1_",
      std::vector<ParamLayout>{{0, 4}, {8, 664}});
  for (const std::uint16_t stale : std::array<std::uint16_t, 3>{152, 240, 560}) {
    EXPECT_FALSE(has(*kernel, 1, stale)) << stale;
  }
  EXPECT_TRUE(is_read_only(*kernel, 1, 608)) << kernel->reason;
  EXPECT_TRUE(is_read_only(*kernel, 1, 656));
  EXPECT_TRUE(has(*kernel, 1, 632));
  EXPECT_FALSE(is_read_only(*kernel, 1, 632)) << "what is gathered into";
  EXPECT_EQ(kernel->words.size(), 3u);
}

// Traced on an H200: a stale word in an unused dimension's strides named a pool.
TEST(StaleWords, IndexClosureHoldsPointersBehindItsOffsetCalculator) {
  const auto kernel = catalog().classify(
      "_ZN2at6native24index_elementwise_kernelILi128ELi4EZNS0_16gpu_index_kernelIZNS0_17index_"
      "kernel_"
      "implINS0_10OpaqueTypeILi4EEEEEvRNS_18TensorIteratorBaseEN3c108ArrayRefIlEESA_EUlPcPKclE_"
      "EEvS7_"
      "SA_SA_RKT_bEUliE_EEvlT1_",
      std::vector<ParamLayout>{{0, 8}, {8, 1240}});
  EXPECT_NE(kernel->reason.find("index and index_put"), std::string::npos) << kernel->reason;
  EXPECT_FALSE(has(*kernel, 1, 336));
  EXPECT_FALSE(has(*kernel, 1, 600));
  for (const std::uint16_t word : std::array<std::uint16_t, 4>{608, 616, 632, 1232}) {
    EXPECT_TRUE(has(*kernel, 1, word)) << word;
  }
}

TEST(StaleWords, ConcatenationReadsAsManyInputsAsTheGridIsHigh) {
  LaunchBuilder launch;
  launch.add(std::uint64_t{0}).add_struct(2720).add_struct(32, 4).add(std::int32_t{0});
  launch.add(std::uint32_t{1}).grid(264, 3);
  const auto kernel = catalog().classify(
      "_ZN2at6native40_GLOBAL__N__0f1a8107_8_Shape_cu_49f7391c35CatArrayBatchedCopy_alignedK_"
      "contigINS1_10OpaqueTypeILj4EEEjLi2ELi128ELi1ELi16EEEvPT_NS1_"
      "25CatArrInputTensorMetadataIS5_T0_XT2_EXT3_EEENS1_16TensorSizeStrideIS8_Lj4EEEiS8_",
      launch.layout());
  EXPECT_TRUE(kernel->word_is_live({1, 0}, launch.values())) << kernel->reason;
  EXPECT_TRUE(kernel->word_is_live({1, 16}, launch.values()));
  EXPECT_FALSE(kernel->word_is_live({1, 24}, launch.values()));
  EXPECT_FALSE(kernel->word_is_live({1, 280}, launch.values()));
  EXPECT_FALSE(kernel->word_is_live({1, 1000}, launch.values()));
  EXPECT_TRUE(kernel->word_is_live({0, 0}, launch.values()));
  EXPECT_TRUE(is_read_only(*kernel, 1, 16));
  EXPECT_FALSE(is_read_only(*kernel, 0, 0)) << "the output";
  EXPECT_FALSE(has(*kernel, 1, 1024)) << "offsets are no pointers";
}

TEST(StaleWords, ContiguousElementwiseHasItsArrayOnly) {
  const auto kernel = catalog().classify(
      "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_13BinaryFunctorIfffNS0_15binary_"
      "internal10DivFunctorIfEEEESt5arrayIPcLm3EEEEviT0_T1_",
      std::vector<ParamLayout>{{0, 4}, {4, 1}, {8, 24}});
  EXPECT_EQ(kernel->words, (std::vector<WordPlace>{{2, 0}, {2, 8}, {2, 16}})) << kernel->reason;
}

}  // namespace
}  // namespace kvshim::heuristics
