// What is cached of functions, for how long, and from several threads at once.
#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "preload/context_life.h"
#include "preload/root_scan.h"
#include "tests/preload/launch/launch_fixture.h"

namespace kvshim::preload::testing {
namespace {

using FunctionInfoOf = LaunchFixture;

const auto kModule = reinterpret_cast<CUmodule>(0xa000);
const auto kOtherModule = reinterpret_cast<CUmodule>(0xa100);
const auto kLibrary = reinterpret_cast<CUlibrary>(0xb000);

TEST_F(FunctionInfoOf, AHandleUsedAgainAfterAnUnloadIsLookedAtAgain) {
  CUfunction function = driver().add_function(0x4000, "_Z3oldPKf", {8}, false, kModule);
  launch(function, Arguments().add(kPoolBase));
  EXPECT_TRUE(gate().unknown.empty());  // it only reads
  EXPECT_EQ(hook_cuModuleUnload(kModule), CUDA_SUCCESS);
  EXPECT_EQ(driver().unloads, 1);
  driver().add_function(0x4000, "_Z3newPf", {8}, false, kOtherModule);
  launch(function, Arguments().add(kPoolBase));
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].name, "_Z3newPf");
}

TEST_F(FunctionInfoOf, OtherModulesFunctionsAreKept) {
  CUfunction function = driver().add_function(0x4100, "_Z4keptPKf", {8}, false, kOtherModule);
  const FunctionInfo* info = find_function(function);
  hook_cuModuleUnload(kModule);
  EXPECT_EQ(find_function(function), info);
}

TEST_F(FunctionInfoOf, ALibrarysKernelsAndAnyModulesFunctionsGoWithIt) {
  CUfunction kernel = driver().add_function(0x4200, "_Z6kernelPKf", {8}, true, kLibrary);
  CUfunction other = driver().add_function(0x4300, "_Z5otherPKf", {8}, true, kOtherModule);
  CUfunction function = driver().add_function(0x4400, "_Z8functionPKf", {8}, false, kModule);
  const FunctionInfo* kernel_info = find_function(kernel);
  const FunctionInfo* other_info = find_function(other);
  const FunctionInfo* function_info = find_function(function);
  hook_cuLibraryUnload(kLibrary);
  EXPECT_NE(find_function(kernel), kernel_info);
  EXPECT_EQ(find_function(other), other_info);
  EXPECT_NE(find_function(function), function_info);
}

TEST_F(FunctionInfoOf, AContextTakesAllFunctionsWithIt) {
  const FunctionInfo* info = find_function(unknown_);
  hook_cuCtxDestroy_v2(reinterpret_cast<CUcontext>(0xc123));
  EXPECT_NE(find_function(unknown_), info);
  EXPECT_THAT(gate().destroyed_contexts,
              ::testing::ElementsAre(reinterpret_cast<CUcontext>(0xc123)));
  EXPECT_EQ(gate().ended_contexts, gate().destroyed_contexts);
}

TEST_F(FunctionInfoOf, OnlyTheLastReleaseDestroysThePrimaryContext) {
  CUcontext context = nullptr;
  hook_cuDevicePrimaryCtxRetain(&context, 3);
  hook_cuDevicePrimaryCtxRetain(&context, 3);
  hook_cuDevicePrimaryCtxRelease_v2(3);
  EXPECT_TRUE(gate().destroyed_contexts.empty());
  hook_cuDevicePrimaryCtxRelease_v2(3);
  EXPECT_THAT(gate().destroyed_contexts, ::testing::ElementsAre(context));
  EXPECT_THAT(gate().ended_contexts, ::testing::ElementsAre(context));
  hook_cuDevicePrimaryCtxRelease_v2(3);  // one too many: nothing left to destroy
  EXPECT_EQ(gate().destroyed_contexts.size(), 1u);
  EXPECT_EQ(gate().ended_contexts.size(), 1u);
}

TEST_F(FunctionInfoOf, AResetDestroysThePrimaryContextWhoeverUsesIt) {
  CUcontext context = nullptr;
  hook_cuDevicePrimaryCtxRetain(&context, 4);
  hook_cuDevicePrimaryCtxRetain(&context, 4);
  hook_cuDevicePrimaryCtxReset_v2(4);
  EXPECT_THAT(gate().destroyed_contexts, ::testing::ElementsAre(context));
  EXPECT_THAT(gate().ended_contexts, ::testing::ElementsAre(context));
  hook_cuDevicePrimaryCtxRelease_v2(4);
  hook_cuDevicePrimaryCtxRelease_v2(4);
}

TEST_F(FunctionInfoOf, AContextWithUnseenUsersIsKeptAndNeverTakenToEnd) {
  static int active;
  active = 1;  // before the first retain that is seen
  driver_table().cuDevicePrimaryCtxGetState = [](CUdevice, unsigned int*, int* out) {
    *out = active;
    return CUDA_SUCCESS;
  };
  CUcontext context = nullptr;
  hook_cuDevicePrimaryCtxRetain(&context, 5);
  EXPECT_FALSE(keep_if_end_is_unseen(5, reinterpret_cast<CUcontext>(0xc999))) << "another context";
  EXPECT_TRUE(keep_if_end_is_unseen(5, context));
  EXPECT_FALSE(keep_if_end_is_unseen(5, context)) << "once is enough";
  hook_cuDevicePrimaryCtxRelease_v2(5);
  EXPECT_TRUE(gate().destroyed_contexts.empty());

  active = 0;
  hook_cuDevicePrimaryCtxRetain(&context, 6);
  active = 1;
  EXPECT_FALSE(keep_if_end_is_unseen(6, context)) << "all its users are counted";
  hook_cuDevicePrimaryCtxRelease_v2(6);
  EXPECT_THAT(gate().destroyed_contexts, ::testing::ElementsAre(context));
  EXPECT_TRUE(gate().ended_contexts.empty()) << "the driver says that it is in use";

  EXPECT_TRUE(keep_if_end_is_unseen(7, reinterpret_cast<CUcontext>(0xc007)))
      << "nobody was seen to retain it";
}

/// Knowledge as a profile with a mistake could give it.
TEST_F(FunctionInfoOf, WordsBeyondTheParametersAreDropped) {
  auto knowledge = std::make_shared<heuristics::KernelKnowledge>();
  knowledge->words = {{1, 8}, {0, 0}, {1, 0}, {1, 16}, {2, 0}, {0, 8}};
  knowledge->word_is_read_only = {true, false, true, false, false};
  FunctionInfo info;
  info.params = {{0, 8}, {8, 20}};
  info.knowledge = knowledge;
  flatten_words(&info);
  EXPECT_THAT(info.words,
              ::testing::ElementsAre(heuristics::WordPlace{0, 0}, heuristics::WordPlace{1, 0},
                                     heuristics::WordPlace{1, 8}));
  EXPECT_THAT(info.word_is_read_only, ::testing::ElementsAre(false, true, true));
  ASSERT_EQ(info.runs.size(), 2u);
  EXPECT_EQ(info.runs[1].count, 2);
  EXPECT_EQ(info.runs[1].first_word, 1);
  EXPECT_EQ(info.runs[1].buffer_offset, 8u);
}

class FirstEntriesAreLive : public heuristics::KernelKnowledge {
 public:
  bool word_is_live(heuristics::WordPlace place,
                    const heuristics::LaunchValues& values) const override {
    return place.offset / 8 < values.grid[1];
  }
};

TEST_F(FunctionInfoOf, DeadWordsAreNoReach) {
  auto knowledge = std::make_shared<FirstEntriesAreLive>();
  for (std::uint16_t offset = 0; offset < 64; offset += 8) knowledge->words.push_back({0, offset});
  FunctionInfo info;
  info.params = {{0, 64}};
  info.knowledge = knowledge;
  flatten_words(&info);
  std::vector<unsigned char> bytes = struct_with_word(64, 24, kPoolBase);
  void* params[] = {bytes.data()};
  EXPECT_TRUE(names_arena(info, params, nullptr));
  EXPECT_EQ(reach_of(info, {params, nullptr, {1, 3, 1}, {1, 1, 1}}).kind,
            LaunchReach::Kind::kNothing);
  EXPECT_EQ(reach_of(info, {params, nullptr, {1, 4, 1}, {1, 1, 1}}).kind,
            LaunchReach::Kind::kUnknown);
}

TEST_F(FunctionInfoOf, MoreFunctionsThanTheFirstSegmentHolds) {
  constexpr std::uintptr_t kFunctions = 10000;
  for (std::uintptr_t i = 1; i <= kFunctions; ++i) {
    driver().add_function(0x7000000 + i * 64, "_Z1fPf" + std::to_string(i), {8});
  }
  for (int round = 0; round < 2; ++round) {
    for (std::uintptr_t i = 1; i <= kFunctions; ++i) {
      const FunctionInfo* info = find_function(reinterpret_cast<void*>(0x7000000 + i * 64));
      ASSERT_NE(info, nullptr);
      ASSERT_EQ(info->name, "_Z1fPf" + std::to_string(i));
    }
  }
}

TEST_F(FunctionInfoOf, ThreadsAgreeOnWhatTheySeeFirst) {
  constexpr std::uintptr_t kFunctions = 300;
  constexpr int kThreads = 4;
  for (std::uintptr_t i = 1; i <= kFunctions; ++i) {
    driver().add_function(0x9000000 + i * 32, kUnknownKernel, {8, 8, 4});
  }
  std::vector<std::vector<const FunctionInfo*>> seen(kThreads);
  std::atomic<int> ready{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ++ready;
      while (ready.load() < kThreads) std::this_thread::yield();
      for (std::uintptr_t i = 1; i <= kFunctions; ++i) {
        auto* function = reinterpret_cast<CUfunction>(0x9000000 + i * 32);
        launch(function, unknown_arguments(kElsewhere));
        seen[static_cast<std::size_t>(t)].push_back(find_function(function));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 1; t < kThreads; ++t) EXPECT_EQ(seen[static_cast<std::size_t>(t)], seen[0]);
  EXPECT_EQ(driver().launches.size(), kThreads * kFunctions);
  EXPECT_TRUE(gate().work.empty());
}

TEST_F(FunctionInfoOf, UnloadsInOneThreadDontDisturbLaunchesInOthers) {
  std::atomic<bool> stop{false};
  std::atomic<int> launches{0};
  std::thread unloader([&] {
    // On one core all unloads could come before the first launch.
    for (int i = 0; i < 200 || launches.load() < 200; ++i) {
      forget_functions();
      std::this_thread::yield();
    }
    stop = true;
  });
  for (; !stop.load(); ++launches) launch(unknown_, unknown_arguments(kPoolBase));
  unloader.join();
  for (const FakeGate::Work& work : gate().work) {
    ASSERT_EQ(work.accesses.size(), 1u);
    ASSERT_TRUE(work.accesses[0].writes);
  }
}

}  // namespace
}  // namespace kvshim::preload::testing
