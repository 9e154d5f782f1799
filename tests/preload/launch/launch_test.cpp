// Launches in all forms: what passes, what goes through the gate, and with what.
#include <gmock/gmock.h>

#include "preload/launch.h"
#include "tests/preload/launch/launch_fixture.h"

namespace kvshim::preload::testing {
namespace {

using ::testing::ElementsAre;

using Launch = LaunchFixture;

TEST_F(Launch, PassesWithoutALookWhileThereIsNoPool) {
  reset_gate(false);
  EXPECT_EQ(launch(unknown_, unknown_arguments(kPoolBase)), CUDA_SUCCESS);
  EXPECT_EQ(driver().launches.size(), 1u);
  EXPECT_EQ(driver().layout_queries, 0);
  EXPECT_TRUE(gate().work.empty());
}

TEST_F(Launch, PassesWhenNoWordNamesTheArena) {
  EXPECT_EQ(launch(unknown_, unknown_arguments(kElsewhere)), CUDA_SUCCESS);
  EXPECT_EQ(driver().launches.size(), 1u);
  EXPECT_TRUE(gate().work.empty());
  EXPECT_TRUE(gate().unknown.empty());
}

TEST_F(Launch, PassesWhenTheWordNamesNoLivePool) {
  EXPECT_EQ(launch(unknown_, unknown_arguments(kPoolBase + kPoolBytes)), CUDA_SUCCESS);
  EXPECT_EQ(driver().launches.size(), 1u);
  EXPECT_TRUE(gate().work.empty());
  EXPECT_TRUE(gate().remembered.empty());
}

TEST_F(Launch, AsksTheDriverOnceForEachFunction) {
  launch(unknown_, unknown_arguments(kElsewhere));
  const int queries = driver().layout_queries;
  EXPECT_EQ(queries, 4);  // three parameters and the end
  for (int i = 0; i < 5; ++i) launch(unknown_, unknown_arguments(kPoolBase));
  EXPECT_EQ(driver().layout_queries, queries);
}

TEST_F(Launch, AnUnknownKernelWritesFromItsWordToThePoolsEnd) {
  const std::uint64_t word = kPoolBase + 10 * kMiB + 24;
  EXPECT_EQ(launch(unknown_, unknown_arguments(word), 1, reinterpret_cast<CUstream>(0x55)),
            CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(gate().work[0].stream.handle, reinterpret_cast<CUstream>(0x55));
  EXPECT_EQ(gate().work[0].stream.flavor, StreamFlavor::kLegacy);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{word, kPoolBytes - 10 * kMiB - 24, true}}}));
  EXPECT_EQ(driver().launches.size(), 1u);
  EXPECT_THAT(gate().remembered, ElementsAre(word));
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].name, kUnknownKernel);
  EXPECT_EQ(gate().unknown[0].words, "p0+0/8");
  EXPECT_EQ(gate().unknown[0].bytes, kPoolBytes - 10 * kMiB - 24);
}

TEST_F(Launch, AWordInTheLastGranuleReachesOnlyThatGranule) {
  const std::uint64_t word = kPoolBase + kPoolBytes - 2 * kMiB + 512;
  launch(unknown_, unknown_arguments(word));
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{word, 2 * kMiB - 512, true}}}));
}

TEST_F(Launch, APointerToConstIsOnlyRead) {
  launch(unknown_, unknown_arguments(kElsewhere, kPoolBase + 4096));
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, false}}}));
  EXPECT_TRUE(gate().unknown.empty());
}

TEST_F(Launch, ReadsThroughConstAndWritesThroughTheRest) {
  const std::uint64_t other = kPoolBase + 2 * kPoolBytes;
  gate().add_pool(other, kPoolBytes);
  launch(unknown_, unknown_arguments(other, kPoolBase));
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{other, kPoolBytes, true}, {kPoolBase, kPoolBytes, false}}}));
}

TEST_F(Launch, TheVllmWriterBecomesTheLinearForm) {
  EXPECT_EQ(launch(writer_, writer_arguments(), 37), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, false}}}));
  ASSERT_TRUE(gate().work[0].linear.has_value());
  const vmm::LinearWrite& write = *gate().work[0].linear;
  EXPECT_EQ(write.slots, kElsewhere + 0x2000);
  EXPECT_EQ(write.slot_bytes, 8u);
  EXPECT_EQ(write.count, 37u);
  EXPECT_EQ(write.skip_below, 0);
  EXPECT_EQ(write.block, 16u);
  ASSERT_EQ(write.destinations, 2u);
  for (std::uint32_t i = 0; i < 2; ++i) {
    const vmm::LinearDestination& destination = write.destination[i];
    EXPECT_EQ(destination.base, kPoolBase + i * kPoolBytes / 2);
    EXPECT_EQ(destination.block_stride, 16u * 2 * 64 * 2);
    EXPECT_EQ(destination.slot_stride, 2u * 64 * 2);
    EXPECT_EQ(destination.length, 2u * 64 * 2);
    EXPECT_EQ(destination.pool_begin, kPoolBase);
    EXPECT_EQ(destination.pool_end, kPoolBase + kPoolBytes);
  }
  EXPECT_TRUE(gate().unknown.empty());
  EXPECT_THAT(gate().remembered, ElementsAre(kPoolBase, kPoolBase + kPoolBytes / 2));
}

// An allocator hands the tail of a pool's last page to other tensors.
TEST_F(Launch, AReadersResultInTheLastGranuleIsWritten) {
  const CUfunction reader = driver().add_function(0x1300, "kernel_unified_attention_2d", {8, 8});
  const std::uint64_t result = kPoolBase + kPoolBytes - kMiB;
  Arguments arguments;
  launch(reader, arguments.add(result).add(kPoolBase));
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{kPoolBase, kPoolBytes, false}, {result, kMiB, true}}}));
  EXPECT_TRUE(gate().unknown.empty());
}

TEST_F(Launch, AWritersOtherResultInTheLastGranuleIsWritten) {
  const CUfunction writer = driver().add_function(
      0x1300,
      "_ZN4vllm38concat_and_cache_mla_rope_fused_kernelIN3c108BFloat16ES2_Lb1E13__nv_bfloat16hLNS_"
      "18Fp8KVCacheDataTypeE1EEEvPKlPT_S8_PKS7_PKT0_illlliPT3_S6_iiiiPKf",
      {8, 8, 8, 8, 8, 4, 8, 8, 8, 8, 4, 8, 8, 4, 4, 4, 4, 8});
  const std::uint64_t rope = kPoolBase + kPoolBytes - kMiB;
  Arguments arguments;
  arguments.add(kElsewhere).add(kElsewhere).add(rope).add(kElsewhere).add(kElsewhere).add(64);
  arguments.add(std::int64_t{64}).add(std::int64_t{64}).add(std::int64_t{64});
  arguments.add(std::int64_t{512}).add(16).add(kPoolBase).add(kElsewhere);
  arguments.add(16 * 576).add(576).add(512).add(16).add(kElsewhere);
  launch(writer, arguments, 3);
  ASSERT_EQ(gate().work.size(), 1u);
  ASSERT_TRUE(gate().work[0].linear.has_value());
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{kPoolBase, kPoolBytes, false}, {rope, kMiB, true}}}));
}

TEST_F(Launch, AWriterWithoutSlotsWritesNothing) {
  EXPECT_EQ(launch(writer_, writer_arguments(), 0), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  EXPECT_FALSE(gate().work[0].accesses[0].writes);
}

TEST_F(Launch, OnlyElasticDestinationsAreGuarded) {
  Arguments arguments = writer_arguments(kPoolBase + kPoolBytes / 2);  // V lies behind the pool
  EXPECT_EQ(launch(writer_, arguments, 3), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  ASSERT_TRUE(gate().work[0].linear.has_value());
  EXPECT_EQ(gate().work[0].linear->destinations, 1u);
  EXPECT_EQ(gate().work[0].linear->destination[0].base, kPoolBase + kPoolBytes / 2);
}

TEST_F(Launch, AWriterThatCantBeEvaluatedIsUnknown) {
  Arguments arguments;
  arguments.add(kElsewhere).add(kElsewhere).add(kPoolBase).add(kPoolBase + kPoolBytes / 2);
  arguments.add(kElsewhere).add(std::int64_t{1}).add(std::int64_t{1}).add(std::int64_t{1});
  arguments.add(std::int64_t{1}).add(std::int64_t{1}).add(2).add(64).add(0);  // a block of 0 slots
  arguments.add(kElsewhere).add(kElsewhere).add(0);
  launch(writer_, arguments, 3);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{kPoolBase, kPoolBytes, true},
                         {kPoolBase + kPoolBytes / 2, kPoolBytes / 2, true}}}));
  EXPECT_EQ(gate().unknown.size(), 1u);
}

TEST_F(Launch, ATorchZeroFillIsAFill) {
  Arguments arguments;
  arguments.add(std::int32_t{1 << 20}).add(std::int8_t{0}).add(kPoolBase + kMiB);
  EXPECT_EQ(launch(fill_, arguments), CUDA_SUCCESS);
  ASSERT_EQ(gate().fills.size(), 1u);
  EXPECT_EQ(gate().fills[0].address, kPoolBase + kMiB);
  EXPECT_EQ(gate().fills[0].bytes, kMiB);
  EXPECT_TRUE(gate().fills[0].zero);
  EXPECT_TRUE(driver().launches.empty());  // the gate dropped it
}

TEST_F(Launch, AFillWithAnotherValueSaysSo) {
  Arguments arguments;
  arguments.add(std::int32_t{1 << 20}).add(std::int8_t{3}).add(kPoolBase);
  launch(fill_, arguments);
  ASSERT_EQ(gate().fills.size(), 1u);
  EXPECT_FALSE(gate().fills[0].zero);
  EXPECT_EQ(driver().launches.size(), 1u);
}

TEST_F(Launch, AFillBeyondItsPoolIsUnknown) {
  Arguments arguments;
  arguments.add(std::int32_t{4 << 20}).add(std::int8_t{0}).add(kPoolBase + kPoolBytes - kMiB);
  launch(fill_, arguments);
  EXPECT_TRUE(gate().fills.empty());
  EXPECT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(driver().launches.size(), 1u);
}

TEST_F(Launch, FindsWordsInsideStructures) {
  CUfunction function = driver().add_function(0x1300, "_Z4takePK1A1B", {8, 2688});
  Arguments arguments;
  arguments.add(kElsewhere).add_bytes(struct_with_word(2688, 1536, kPoolBase + 8));
  launch(function, arguments);
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].words, "p1+1536/2688");
  EXPECT_EQ(gate().work[0].accesses[0].address, kPoolBase + 8);
}

TEST_F(Launch, FindsTheLastWordOfAStructureButNoPartOfOne) {
  CUfunction function = driver().add_function(0x1400, "_Z4take1A", {44});
  Arguments last;
  last.add_bytes(struct_with_word(44, 32, kPoolBase));
  launch(function, last);
  EXPECT_EQ(gate().work.size(), 1u);
  Arguments unaligned;  // from byte 36 on: not where a pointer stands
  unaligned.add_bytes(struct_with_word(44, 36, kPoolBase));
  launch(function, unaligned);
  EXPECT_EQ(gate().work.size(), 1u);
}

TEST_F(Launch, TakesTheExtraForm) {
  const auto& layout = driver().functions.at(writer_).params;
  Arguments arguments = writer_arguments();
  EXPECT_EQ(hook_cuLaunchKernel(writer_, 5, 1, 1, 128, 1, 1, 0, nullptr, nullptr,
                                arguments.extra(layout)),
            CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  ASSERT_TRUE(gate().work[0].linear.has_value());
  EXPECT_EQ(gate().work[0].linear->count, 5u);
  EXPECT_EQ(gate().work[0].linear->destination[1].base, kPoolBase + kPoolBytes / 2);
}

TEST_F(Launch, PassesAnExtraBufferThatNamesNoPool) {
  const auto& layout = driver().functions.at(unknown_).params;
  Arguments arguments = unknown_arguments(kElsewhere);
  hook_cuLaunchKernel(unknown_, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, arguments.extra(layout));
  EXPECT_TRUE(gate().work.empty());
  EXPECT_EQ(driver().launches.size(), 1u);
}

TEST_F(Launch, ReadsNothingBeyondAShortExtraBuffer) {
  std::vector<std::uint64_t> buffer = {kPoolBase, kPoolBase, kPoolBase};
  std::size_t bytes = 8;  // the first of three parameters
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer.data(), CU_LAUNCH_PARAM_BUFFER_SIZE,
                   &bytes, CU_LAUNCH_PARAM_END};
  hook_cuLaunchKernel(unknown_, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, true}}}));
}

TEST_F(Launch, TakesKernelsInPlaceOfFunctions) {
  CUfunction kernel = driver().add_function(0x2000, kUnknownKernel, {8, 8, 4}, true);
  launch(kernel, unknown_arguments(kPoolBase));
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].name, kUnknownKernel);
}

TEST_F(Launch, AnErrorOfTheGuardIsTheLaunchsError) {
  gate().guard_result = CUDA_ERROR_LAUNCH_FAILED;
  EXPECT_EQ(launch(unknown_, unknown_arguments(kPoolBase)), CUDA_ERROR_LAUNCH_FAILED);
  EXPECT_TRUE(driver().launches.empty());
}

TEST_F(Launch, AFunctionTheDriverRefusesIsTakenToWriteEverything) {
  EXPECT_EQ(launch(reinterpret_cast<CUfunction>(0x9999), unknown_arguments(kElsewhere)),
            CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, true}}}));
}

TEST_F(Launch, AnOldDriversLaunchesAreTakenToWriteEverything) {
  driver_table().cuFuncGetParamInfo = nullptr;
  driver_table().cuKernelGetParamInfo = nullptr;
  launch(unknown_, unknown_arguments(kElsewhere));
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, true}}}));
}

TEST_F(Launch, TheFirstApisLaunchesAreTakenToWriteEverything) {
  EXPECT_EQ(hook_cuLaunchGridAsync(unknown_, 1, 1, reinterpret_cast<CUstream>(0x77)), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_EQ(gate().work[0].stream.handle, reinterpret_cast<CUstream>(0x77));
  EXPECT_EQ(AccessList{gate().work[0].accesses}, (AccessList{{{kPoolBase, kPoolBytes, true}}}));
  EXPECT_EQ(driver().launches.size(), 1u);
}

TEST_F(Launch, NullArgumentsAreTheDriversAffair) {
  EXPECT_EQ(hook_cuLaunchKernelEx(nullptr, unknown_, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
  launch(nullptr, unknown_arguments(kPoolBase));
  hook_cuLaunchKernel(unknown_, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
  EXPECT_TRUE(gate().work.empty());
  EXPECT_EQ(driver().launches.size(), 2u);
}

TEST_F(Launch, EachEntryPointCallsItsOwnRealFunction) {
  Arguments arguments = unknown_arguments(kPoolBase);
  CUlaunchConfig config{};
  config.hStream = reinterpret_cast<CUstream>(0x10);
  config.gridDimX = 1;
  hook_cuLaunchKernel_ptsz(unknown_, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments.params(), nullptr);
  hook_cuLaunchKernelEx(&config, unknown_, arguments.params(), nullptr);
  hook_cuLaunchCooperativeKernel(unknown_, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments.params());
  ASSERT_EQ(driver().launches.size(), 3u);
  EXPECT_STREQ(driver().launches[0].entry_point, "cuLaunchKernel_ptsz");
  EXPECT_STREQ(driver().launches[1].entry_point, "cuLaunchKernelEx");
  EXPECT_STREQ(driver().launches[2].entry_point, "cuLaunchCooperativeKernel");
  ASSERT_EQ(gate().work.size(), 3u);
  EXPECT_EQ(gate().work[0].stream.flavor, StreamFlavor::kPerThread);
  EXPECT_EQ(gate().work[1].stream.handle, config.hStream);
}

/// A list of launches, one stream each.
class ListedLaunch : public Launch {
 protected:
  CUresult launch_list(std::vector<std::pair<CUfunction, Arguments>> each) {
    std::vector<CUDA_LAUNCH_PARAMS> list(each.size());
    for (std::size_t i = 0; i < each.size(); ++i) {
      list[i].function = each[i].first;
      list[i].gridDimX = 4;
      list[i].hStream = stream(i);
      list[i].kernelParams = each[i].second.params();
    }
    return hook_cuLaunchCooperativeKernelMultiDevice(list.data(),
                                                     static_cast<unsigned>(list.size()), 0);
  }
  static CUstream stream(std::size_t i) { return reinterpret_cast<CUstream>(0x10 + i); }
};

// Several submissions would let other threads' work come between them.
TEST_F(ListedLaunch, IsOneSubmissionOfAllThatReachPools) {
  EXPECT_EQ(launch_list({{unknown_, unknown_arguments(kPoolBase)},
                         {unknown_, unknown_arguments(kElsewhere)},
                         {writer_, writer_arguments()}}),
            CUDA_SUCCESS);
  EXPECT_EQ(driver().launches.size(), 3u);
  EXPECT_TRUE(gate().work.empty());
  ASSERT_EQ(gate().lists.size(), 1u);
  const std::vector<ListedWork>& list = gate().lists[0];
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].stream.handle, stream(0));
  EXPECT_TRUE(list[0].accesses[0].writes);
  EXPECT_FALSE(list[0].linear.has_value());
  EXPECT_EQ(list[1].stream.handle, stream(2));
  EXPECT_TRUE(list[1].linear.has_value());
}

TEST_F(ListedLaunch, MakesEachOfItsStreamsWaitForTheOthers) {
  launch_list(
      {{unknown_, unknown_arguments(kElsewhere)}, {unknown_, unknown_arguments(kElsewhere)}});
  EXPECT_TRUE(gate().lists.empty());
  EXPECT_EQ(gate().waits, (std::vector<CUstream>{stream(0), stream(1)}));
}

TEST_F(ListedLaunch, IsNotMadeWhenAGuardFails) {
  gate().guard_result = CUDA_ERROR_LAUNCH_FAILED;
  EXPECT_EQ(launch_list({{unknown_, unknown_arguments(kPoolBase)}}), CUDA_ERROR_LAUNCH_FAILED);
  EXPECT_TRUE(driver().launches.empty());
}

}  // namespace
}  // namespace kvshim::preload::testing
