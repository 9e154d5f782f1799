#include "heuristics/kernel_catalog.h"

#include <gtest/gtest.h>

#include "tests/heuristics/launch_values.h"

namespace kvshim::heuristics {
namespace {

constexpr char kFlash16[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
    "S5_PT0_S7_PKlllllliiiPKfSB_i";
constexpr char kFlash16Fp8[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16hLNS_18Fp8KVCacheDataTypeE1EEEvPKT_S5_"
    "PT0_S7_PKlllllliiiPKfSB_i";
constexpr char kFlash16Half[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelIttLNS_18Fp8KVCacheDataTypeE0EEEvPKT_S4_PT0_S6_"
    "PKlllllliiiPKfSA_i";
constexpr char kFlash15[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
    "S5_PT0_S7_PKlllllliiiPKfSB_";
constexpr char kFlash13[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
    "S5_PT0_S7_PKliiiiiiPKfSB_";
// Before 0.8: the scales were numbers.
constexpr char kFlash13Scalars[] =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
    "S5_PT0_S7_PKliiiiiiff";

// 8 heads of 128, blocks of 16 tokens, K and V in halves of one tensor.
LaunchBuilder flash_launch(std::int64_t page_stride, std::int64_t head_stride) {
  LaunchBuilder launch;
  launch.add(kElsewhere).add(kElsewhere).add(kPool).add(kPool + 0x10000000).add(kElsewhere + 64);
  launch.add(std::int64_t{16 * 1024}).add(page_stride).add(head_stride);
  launch.add(std::int64_t{1024}).add(std::int64_t{1024});
  launch.add(std::int32_t{8}).add(std::int32_t{128}).add(std::int32_t{16});
  launch.add(kElsewhere).add(kElsewhere).add(std::int32_t{0});
  launch.grid(37);
  return launch;
}

TEST(KernelCatalog, EvaluatesVllmsWriter) {
  const LaunchBuilder launch = flash_launch(1024, 128);
  const auto kernel = catalog().classify(kFlash16, launch.layout());
  ASSERT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  const auto call = kernel->writer_call(launch.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->slots, kElsewhere + 64);
  EXPECT_EQ(call->slot_bytes, 8u);
  EXPECT_EQ(call->count, 37u);
  EXPECT_EQ(call->skip_below, 0);
  EXPECT_EQ(call->block, 16u);
  ASSERT_EQ(call->destinations.size(), 2u);
  EXPECT_EQ(call->destinations[0].base, kPool);
  EXPECT_EQ(call->destinations[1].base, kPool + 0x10000000);
  for (const auto& destination : call->destinations) {
    EXPECT_EQ(destination.block_stride, 16u * 1024 * 2);
    EXPECT_EQ(destination.slot_stride, 2048u);
    EXPECT_EQ(destination.length, 2048u);
  }
}

TEST(KernelCatalog, HeadMajorLayoutReachesToTheLastHead) {
  // [blocks, heads, block, dim]: a token's heads lie 16 rows apart.
  const LaunchBuilder launch = flash_launch(128, 16 * 128);
  const auto call = catalog().classify(kFlash16, launch.layout())->writer_call(launch.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->destinations[0].slot_stride, 256u);
  EXPECT_EQ(call->destinations[0].length, (7u * 16 * 128 + 128) * 2);
}

TEST(KernelCatalog, ElementSizeComesFromTheCacheType) {
  const LaunchBuilder launch = flash_launch(1024, 128);
  const auto fp8 = catalog().classify(kFlash16Fp8, launch.layout())->writer_call(launch.values());
  ASSERT_TRUE(fp8);
  EXPECT_EQ(fp8->destinations[0].length, 1024u);
  const auto half = catalog().classify(kFlash16Half, launch.layout())->writer_call(launch.values());
  ASSERT_TRUE(half);
  EXPECT_EQ(half->destinations[0].length, 2048u);
}

TEST(KernelCatalog, EachSignatureOfTheWriterHasItsOwnForm) {
  LaunchBuilder old;
  old.add(kElsewhere).add(kElsewhere).add(kPool).add(kPool).add(kElsewhere);
  old.add(std::int32_t{16 * 1024}).add(std::int32_t{9}).add(std::int32_t{9});
  old.add(std::int32_t{8}).add(std::int32_t{128}).add(std::int32_t{16});
  LaunchBuilder scalars = old;
  old.add(kElsewhere).add(kElsewhere).grid(3);
  const auto kernel = catalog().classify(kFlash13, old.layout());
  ASSERT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  EXPECT_EQ(kernel->reason, "vllm: reshape_and_cache_flash of 0.8");
  EXPECT_EQ(kernel->writer_call(old.values())->destinations[1].length, 2048u);

  scalars.add(1.0F).add(1.0F).grid(3);
  EXPECT_EQ(catalog().classify(kFlash13Scalars, scalars.layout())->role, KernelRole::kUnknown);
}

TEST(KernelCatalog, OlderSignatureOrOtherSizesDoNotMatch) {
  const LaunchBuilder launch = flash_launch(1024, 128);
  // The name of the older form with the sizes of the newer one, and the reverse.
  const auto mixed = catalog().classify(kFlash15, launch.layout());
  EXPECT_EQ(mixed->role, KernelRole::kUnknown);
  EXPECT_NE(mixed->reason.find("parameters"), std::string::npos) << mixed->reason;
  std::vector<ParamLayout> narrow = launch.layout();
  narrow[6].size = 4;
  EXPECT_EQ(catalog().classify(kFlash16, narrow)->role, KernelRole::kUnknown);
  // Then every word of it counts.
  EXPECT_FALSE(catalog().classify(kFlash16, narrow)->words.empty());
  EXPECT_EQ(catalog().classify(kFlash16, {})->role, KernelRole::kReader) << "no words, no reach";
}

TEST(KernelCatalog, NonsenseValuesMakeNoWriterCall) {
  LaunchBuilder launch = flash_launch(1024, 128);
  const auto kernel = catalog().classify(kFlash16, launch.layout());
  launch.grid(0x80000001U);
  EXPECT_FALSE(kernel->writer_call(launch.values()));
  launch.grid(1);
  EXPECT_TRUE(kernel->writer_call(launch.values()));
  launch.put(5, 0, static_cast<std::uint64_t>(-5));  // negative stride
  EXPECT_FALSE(kernel->writer_call(launch.values()));
  launch.put(5, 0, std::uint64_t{1} << 63 >> 1);  // overflows with the element size
  EXPECT_FALSE(kernel->writer_call(launch.values()));
  LaunchBuilder zero_block;
  zero_block = flash_launch(1024, 128);
  std::vector<const void*> params(zero_block.values().params.begin(),
                                  zero_block.values().params.end());
  const std::int32_t block = 0;
  params[12] = &block;
  EXPECT_FALSE(kernel->writer_call({params, {1, 1, 1}, {1, 1, 1}}));
  params[12] = nullptr;
  EXPECT_FALSE(kernel->writer_call({params, {1, 1, 1}, {1, 1, 1}}));
  params.pop_back();
  EXPECT_FALSE(kernel->writer_call({params, {1, 1, 1}, {1, 1, 1}}));
}

TEST(KernelCatalog, WriterReadsItsSourcesThroughConstPointers) {
  const LaunchBuilder launch = flash_launch(1024, 128);
  const auto kernel = catalog().classify(kFlash16, launch.layout());
  ASSERT_EQ(kernel->words.size(), kernel->word_is_read_only.size());
  std::vector<WordPlace> writable;
  for (std::size_t i = 0; i < kernel->words.size(); ++i) {
    if (!kernel->word_is_read_only[i]) writable.push_back(kernel->words[i]);
  }
  EXPECT_EQ(writable, (std::vector<WordPlace>{{2, 0}, {3, 0}}));
}

TEST(KernelCatalog, MlaWriterCoversLatentAndRotaryPart) {
  LaunchBuilder launch;
  launch.add(kElsewhere).add(kElsewhere).add(kPool).add(kElsewhere);
  launch.add(std::int32_t{64 * 576}).add(std::int32_t{576}).add(std::int32_t{512});
  launch.add(std::int32_t{64}).add(std::int32_t{512}).add(std::int32_t{64}).add(std::int32_t{64});
  launch.add(kElsewhere).grid(5);
  const auto kernel = catalog().classify(
      "_ZN4vllm27concat_and_cache_mla_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
      "S5_PT0_PKliiiiiiiPKf",
      launch.layout());
  ASSERT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  const auto call = kernel->writer_call(launch.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->block, 64u);
  ASSERT_EQ(call->destinations.size(), 1u);
  EXPECT_EQ(call->destinations[0].block_stride, 64u * 576 * 2);
  EXPECT_EQ(call->destinations[0].length, 576u * 2);
}

TEST(KernelCatalog, FusedMlaWriterTakesItsElementFromTheCachePointer) {
  LaunchBuilder launch;
  for (int i = 0; i < 5; ++i) launch.add(kElsewhere);
  launch.add(std::int32_t{64});
  for (int i = 0; i < 4; ++i) launch.add(std::int64_t{7});
  launch.add(std::int32_t{128}).add(kPool).add(kElsewhere);
  launch.add(std::int32_t{64 * 576}).add(std::int32_t{576}).add(std::int32_t{512});
  launch.add(std::int32_t{64}).add(kElsewhere).grid(9);
  // Of vLLM 0.22.1: bfloat16 queries, a cache of 8-bit floats.
  const auto kernel = catalog().classify(
      "_ZN4vllm38concat_and_cache_mla_rope_fused_kernelIN3c108BFloat16ES2_Lb1E13__nv_bfloat16hLNS_"
      "18Fp8KVCacheDataTypeE1EEEvPKlPT_S8_PKS7_PKT0_illlliPT3_S6_iiiiPKf",
      launch.layout());
  ASSERT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  const auto call = kernel->writer_call(launch.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->destinations[0].base, kPool);
  EXPECT_EQ(call->destinations[0].length, 576u);
}

TEST(KernelCatalog, LlamaCppRowsAreSlotsOnlyInTheSimpleShape) {
  struct Uint3 {
    std::uint32_t x, y, z;
  };
  const auto build = [](std::int64_t total, std::int64_t index_stride) {
    LaunchBuilder launch;
    launch.add(kElsewhere).add(kElsewhere).add(kPool).add(total);
    launch.add(std::int64_t{6}).add(std::int64_t{1}).add(std::int64_t{1}).add(std::int64_t{1});
    launch.add(std::int64_t{512}).add(std::int64_t{0}).add(std::int64_t{0});
    launch.add(index_stride).add(std::int64_t{6}).add(std::int64_t{6});
    launch.add(std::int64_t{512}).add(std::int64_t{0}).add(std::int64_t{0});
    for (int i = 0; i < 5; ++i) launch.add(Uint3{1, 0, 1});
    return launch;
  };
  const LaunchBuilder simple = build(6 * 512, 1);
  const auto kernel = catalog().classify(
      "_Z10k_set_rowsIfl6__halfEvPKT_PKT0_PT1_llllllllllllll5uint3S9_S9_S9_S9_", simple.layout());
  ASSERT_EQ(kernel->role, KernelRole::kWriter) << kernel->reason;
  const auto call = kernel->writer_call(simple.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->block, 1u);
  EXPECT_EQ(call->count, 6u);
  EXPECT_EQ(call->destinations[0].block_stride, 1024u);
  EXPECT_EQ(call->destinations[0].length, 1024u);
  EXPECT_FALSE(kernel->writer_call(build(12 * 512, 1).values())) << "several layers at once";
  EXPECT_FALSE(kernel->writer_call(build(6 * 512, 2).values())) << "indices apart";
}

TEST(KernelCatalog, ZeroFillIsAZeroFillOnlyWithZeroBytes) {
  constexpr char kFillInt8[] =
      "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_"
      "11FillFunctorIaEESt5arrayIPcLm1EEEEviT0_"
      "T1_";
  constexpr char kFillFloat[] =
      "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_"
      "11FillFunctorIfEESt5arrayIPcLm1EEEEviT0_"
      "T1_";
  LaunchBuilder launch;
  launch.add(std::int32_t{0x40000000}).add(std::int8_t{0}).add(kPool);
  const auto kernel = catalog().classify(kFillInt8, launch.layout());
  ASSERT_EQ(kernel->role, KernelRole::kZeroFill) << kernel->reason;
  auto call = kernel->fill_call(launch.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->address, kPool);
  EXPECT_EQ(call->bytes, 0x40000000u);
  EXPECT_TRUE(call->zero);

  LaunchBuilder ones;
  ones.add(std::int32_t{5}).add(std::int8_t{1}).add(kPool);
  EXPECT_FALSE(kernel->fill_call(ones.values())->zero);

  LaunchBuilder floats;
  floats.add(std::int32_t{5}).add(-0.0F).add(kPool);
  const auto of_floats = catalog().classify(kFillFloat, floats.layout());
  ASSERT_EQ(of_floats->role, KernelRole::kZeroFill) << of_floats->reason;
  call = of_floats->fill_call(floats.values());
  ASSERT_TRUE(call);
  EXPECT_EQ(call->bytes, 20u);
  EXPECT_FALSE(call->zero) << "minus zero is not zero bytes";
  // A functor of another size is another kernel.
  EXPECT_NE(catalog().classify(kFillFloat, launch.layout())->role, KernelRole::kZeroFill);
}

TEST(KernelCatalog, UnalignedFillIsKnownToo) {
  LaunchBuilder launch;
  launch.add(std::int32_t{100}).add(std::int8_t{0}).add(kPool);
  for (int i = 0; i < 4; ++i) launch.add(std::int8_t{0});
  const auto kernel = catalog().classify(
      "_ZN2at6native27unrolled_elementwise_kernelINS0_"
      "11FillFunctorIaEESt5arrayIPcLm1EELi16E23Trivia"
      "lOffsetCalculatorILi0EjES7_ILi1EjENS0_6memory15LoadWithoutCastENSA_16StoreWithoutCastEEEviT_"
      "T0"
      "_T2_T3_T4_T5_",
      launch.layout());
  ASSERT_EQ(kernel->role, KernelRole::kZeroFill) << kernel->reason;
  EXPECT_EQ(kernel->fill_call(launch.values())->bytes, 100u);
}

constexpr char kFlash3Prefix[] =
    "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_"
    "25CollectiveMainloopFwdSm90ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi128EEESA_NS7_"
    "ILi64EEEEEELi64ENS_10bfloat16_tEfNS_4arch4Sm90ELb1ELb0ELb0ELb1ELb1E";
constexpr char kFlash3Suffix[] = "ELb0ELb1ELb1ELb1ELb0ELb0EEEifEEEEEEvNT_6ParamsE";

TEST(KernelCatalog, FlashAttentionReadsUnlessItAppends) {
  const std::vector<ParamLayout> params = {{0, 2688}};
  const auto reader =
      catalog().classify(std::string(kFlash3Prefix) + "Lb0" + kFlash3Suffix, params);
  EXPECT_EQ(reader->role, KernelRole::kReader) << reader->reason;
  EXPECT_EQ(reader->words.size(), 2688u / 8);
  EXPECT_FALSE(reader->word_is_read_only[13]) << "one of them is the output";
  const auto appending =
      catalog().classify(std::string(kFlash3Prefix) + "Lb1" + kFlash3Suffix, params);
  EXPECT_EQ(appending->role, KernelRole::kUnknown);
  EXPECT_FALSE(appending->word_is_read_only[13]);

  // As vLLM 0.22.1 ships it: two more template arguments than FlashAttention's own.
  const auto shipped = catalog().classify(
      "_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90INS1_"
      "25Collecti"
      "veMainloopFwdSm90ILi2EN4cute5tupleIJNS5_1CILi1EEES8_S8_EEENS6_IJNS7_ILi128EEESA_SA_"
      "EEELi128ENS"
      "_10bfloat16_tEfNS_4arch4Sm90ELb0ELb1ELb0ELb1ELb0ELb0ELb0ELb1ELb1ELb1ELb0ELb0ESC_Li4EEENS1_"
      "21Co"
      "llectiveEpilogueFwdISB_S9_SC_SE_Li256ELb1ELb1ELb0ELb0ELi4EEENS1_"
      "36VarlenDynamicPersistentTileS"
      "chedulerILi128ELi128ELi256ELi32ELb0ELb1ELb1ELb1ELb0ELb1EEEEEEEEEvNT_6ParamsE",
      params);
  EXPECT_EQ(shipped->role, KernelRole::kReader) << shipped->reason;

  constexpr char kSplit[] =
      "_ZN5flash24flash_fwd_splitkv_kernelINS_23Flash_fwd_kernel_"
      "traitsILi128ELi64EEELb1ELb0ELb0ELb0E"
      "Lb1ELb0ELb0ELb";
  constexpr char kSplitEnd[] = "EEEvNS_16Flash_fwd_paramsE";
  const std::vector<ParamLayout> split = {{0, 480}};
  EXPECT_EQ(catalog().classify(std::string(kSplit) + "0" + kSplitEnd, split)->role,
            KernelRole::kReader);
  EXPECT_EQ(catalog().classify(std::string(kSplit) + "1" + kSplitEnd, split)->role,
            KernelRole::kUnknown);
}

TEST(KernelCatalog, PointersToConstMakeAReader) {
  // void gather(float const*, long const*, float*), void peek(float const*)
  const std::vector<ParamLayout> three = {{0, 8}, {8, 8}, {16, 8}};
  const auto gather = catalog().classify("_Z6gatherPKfPKlPf", three);
  EXPECT_EQ(gather->role, KernelRole::kUnknown);
  EXPECT_EQ(gather->word_is_read_only, (std::vector<bool>{true, true, false}));
  EXPECT_EQ(catalog().classify("_Z4peekPKf", std::vector<ParamLayout>{{0, 8}})->role,
            KernelRole::kReader);
  // An integer may be an address in disguise; a structure may hold anything.
  EXPECT_EQ(catalog().classify("_Z4peekPKfl", std::vector<ParamLayout>{{0, 8}, {8, 8}})->role,
            KernelRole::kUnknown);
  EXPECT_EQ(catalog().classify("_Z4peekPKf3Box", std::vector<ParamLayout>{{0, 8}, {8, 24}})->role,
            KernelRole::kUnknown);
}

TEST(KernelCatalog, WithoutTypesEveryAlignedWordCounts) {
  const std::vector<ParamLayout> params = {{0, 4}, {8, 20}, {28, 1}, {32, 8}};
  const auto kernel = catalog().classify("some_kernel", params);
  EXPECT_EQ(kernel->role, KernelRole::kUnknown);
  EXPECT_EQ(kernel->words, (std::vector<WordPlace>{{1, 0}, {1, 8}, {3, 0}}));
  // Types that contradict the sizes are not believed.
  EXPECT_EQ(catalog().classify("_Z4peekPKf", std::vector<ParamLayout>{{0, 16}})->words.size(), 2u);
}

}  // namespace
}  // namespace kvshim::heuristics
