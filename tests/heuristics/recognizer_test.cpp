#include "heuristics/recognizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "heuristics/process_identity.h"
#include "heuristics/profiles.h"

namespace kvshim::heuristics {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr char kSite[] = "/opt/venv/lib/python3.12/site-packages/";

const Profiles& profiles() {
  static const Profiles* const instance = new Profiles(Profiles::built_in());
  return *instance;
}

std::vector<std::string> no_objects() { return {}; }
std::vector<std::string> vllm_objects() {
  return {"/lib/libc.so.6", std::string(kSite) + "vllm/_C.abi3.so"};
}

ProcessIdentity vllm_server() {
  ProcessIdentity identity;
  identity.executable = "/usr/bin/python3.12";
  identity.command_line = {"VLLM::EngineCore"};
  identity.ancestors = {{"/opt/venv/bin/python", "/opt/venv/bin/vllm", "serve", "model"}};
  return identity;
}

class Scene {
 public:
  explicit Scene(ProcessIdentity identity = vllm_server(), std::vector<Rule> rules = {},
                 std::vector<std::string> (*objects)() = &no_objects)
      : recognizer_(profiles(), std::move(identity),
                    Recognizer::Settings{256 * kMiB, std::move(rules), objects}) {}

  Decision ask(std::size_t bytes, std::vector<std::string> python,
               std::vector<std::string> native = {}) {
    for (std::string& frame : python) {
      const std::size_t blank = frame.find(' ');
      if (frame[blank + 1] != '/') frame.insert(blank + 1, kSite);
    }
    AllocationRequest request;
    request.bytes = bytes;
    request.entry_point = "cuMemAlloc_v2";
    request.call_site = {std::move(native), std::move(python)};
    return recognizer_.decide(request);
  }
  Recognizer& recognizer() { return recognizer_; }

 private:
  Recognizer recognizer_;
};

const std::vector<std::string> kCallers = {
    "initialize_kv_cache vllm/v1/worker/gpu_model_runner.py:6000",
    "initialize_from_config vllm/v1/worker/gpu_worker.py:400",
    "_initialize_kv_caches vllm/v1/engine/core.py:200"};

std::vector<std::string> with_callers(std::string innermost) {
  std::vector<std::string> frames = {std::move(innermost)};
  frames.insert(frames.end(), kCallers.begin(), kCallers.end());
  return frames;
}

const std::vector<std::string> kZeros = {"at::_ops::zeros::call(...)@libtorch_cpu.so",
                                         "THPVariable_zeros@libtorch_python.so"};
const std::vector<std::string> kEmpty = {"at::_ops::empty_memory_format::call@libtorch_cpu.so"};

TEST(Recognizer, EachAllocationPathOfVllmIsAPool) {
  for (const char* frame : {
           "initialize_kv_cache vllm/v1/worker/gpu_model_runner.py:1700",         // 0.8
           "_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:5000",  // 2025
           "_allocate_kv_cache vllm/v1/worker/gpu/attn_utils.py:120",             // runner v2
           "allocate_kv_cache vllm/v1/worker/utils.py:300",                       // 0.28
           "_init_minimal_kv_cache_for_profiling vllm/v1/worker/gpu_model_runner.py:5300",
       }) {
    Scene scene;
    const Decision decision = scene.ask(2884 * kMiB, {frame});
    EXPECT_TRUE(decision.pool) << frame << ": " << decision.reason;
    EXPECT_EQ(decision.role, "kv");
    EXPECT_THAT(decision.reason, HasSubstr("vllm: KV cache function at "));
  }
}

TEST(Recognizer, CrossLayerBlocksOfAConnectorAreKnownAndLeftAlone) {
  Scene scene;
  const Decision decision = scene.ask(
      60000 * kMiB,
      with_callers(
          "allocate_uniform_kv_caches vllm/v1/worker/kv_connector_model_runner_mixin.py:90"));
  EXPECT_FALSE(decision.pool);
  EXPECT_THAT(decision.reason, HasSubstr("cross-layer blocks of a KV connector"));
}

TEST(Recognizer, TorchFramesAndComprehensionsAreSeenThrough) {
  Scene scene;
  EXPECT_TRUE(scene
                  .ask(300 * kMiB, {"__torch_function__ torch/utils/_device.py:103",
                                    "<dictcomp> vllm/v1/worker/gpu_model_runner.py:5001",
                                    "_allocate_kv_cache_tensors "
                                    "vllm/v1/worker/gpu_model_runner.py:5000"})
                  .pool);
}

TEST(Recognizer, ARenamedEngineFunctionAloneDoesNotTurnItOff) {
  Scene renamed;
  const Decision decision = renamed.ask(
      600 * kMiB, with_callers("reserve_attention_memory vllm/v1/worker/gpu_model_runner.py:5000"));
  EXPECT_TRUE(decision.pool) << decision.reason;
  // All functions renamed.
  Scene all_renamed;
  const std::vector<std::string> unknown = {
      "reserve_attention_memory vllm/v1/worker/runner.py:5000", "prepare vllm/v1/worker/w.py:1",
      "start vllm/v1/engine/core.py:1"};
  EXPECT_TRUE(all_renamed.ask(2884 * kMiB, unknown).pool);
  Scene small;
  EXPECT_FALSE(small.ask(600 * kMiB, unknown).pool) << "one alone may be a buffer";
  EXPECT_TRUE(small.ask(600 * kMiB, unknown).pool) << "a second of the same size is no chance";
}

TEST(Recognizer, WithoutAPythonStackZeroedTensorsOfAKnownEngineAreTaken) {
  Scene scene;
  EXPECT_TRUE(scene.ask(2884 * kMiB, {}, kZeros).pool);
  Scene smaller;
  EXPECT_FALSE(smaller.ask(600 * kMiB, {}, kZeros).pool);
  EXPECT_TRUE(smaller.ask(600 * kMiB, {}, kZeros).pool);
  Scene by_object(ProcessIdentity{}, {}, &vllm_objects);
  EXPECT_TRUE(by_object.ask(2884 * kMiB, {}, kZeros).pool) << "a script that uses the LLM class";
  Scene stranger{ProcessIdentity{}};
  EXPECT_FALSE(stranger.ask(2884 * kMiB, {}, kZeros).pool);
}

TEST(Recognizer, WeightsActivationsAndWorkspacesAreNoPools) {
  Scene scene;
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_FALSE(scene
                     .ask(2048 * kMiB,
                          {"create_weights vllm/model_executor/layers/linear.py:300",
                           "load_model vllm/v1/worker/gpu_model_runner.py:3000"},
                          kEmpty)
                     .pool)
        << "equal sizes and large, but weights";
  }
  EXPECT_FALSE(scene.ask(1188 * kMiB, {"sample vllm/v1/sample/sampler.py:90"}).pool);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(
        scene.ask(594 * kMiB, {"compute_logprobs vllm/v1/worker/gpu/sample/logprob.py:30"}).pool);
    EXPECT_FALSE(scene
                     .ask(594 * kMiB, {"_get_logits vllm/v1/worker/gpu_model_runner.py:4000",
                                       "execute_model vllm/v1/worker/gpu_worker.py:700"})
                     .pool);
  }
  EXPECT_FALSE(scene
                   .ask(1188 * kMiB, {"_dummy_run vllm/v1/worker/gpu_model_runner.py:4000",
                                      "profile_run vllm/v1/worker/gpu_model_runner.py:4100"})
                   .pool);
  EXPECT_FALSE(
      scene
          .ask(394 * kMiB,
               with_callers("_get_workspace_buffer vllm/v1/attention/backends/flashinfer.py:600"))
          .pool);
  // torch.empty twice without a Python stack: the sizes of a model's layers.
  EXPECT_FALSE(scene.ask(900 * kMiB, {}, kEmpty).pool);
  EXPECT_FALSE(scene.ask(900 * kMiB, {}, kEmpty).pool);
}

TEST(Recognizer, TheTracedSequenceOfVllmGivesItsPoolsAndNothingElse) {
  Scene scene;
  std::size_t pools = 0;
  const auto weight = [&](std::size_t mib) {
    pools +=
        scene.ask(mib * kMiB, {"create_weights vllm/model_executor/layers/linear.py:300"}, kEmpty)
            .pool;
  };
  weight(260);
  weight(304);
  for (int i = 0; i < 3; ++i) {
    pools += scene.ask(594 * kMiB, {"compute_logprobs vllm/v1/sample/sampler.py:200"}).pool;
  }
  EXPECT_EQ(pools, 0u);
  std::string group;
  for (int layer = 0; layer < 24; ++layer) {
    const Decision decision = scene.ask(
        2884 * kMiB, with_callers("_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:" +
                                  std::to_string(5000 + layer % 2)));
    pools += decision.pool;
    if (layer == 0) group = decision.group;
    EXPECT_EQ(decision.group, group) << "line numbers do not part siblings";
  }
  EXPECT_EQ(pools, 24u);
  const Decision other =
      scene.ask(1000 * kMiB,
                with_callers("_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:5000"));
  EXPECT_TRUE(other.pool);
  EXPECT_NE(other.group, group) << "another size, another group";
}

TEST(Recognizer, SglangAndLlamaCppAreKnownByTheirCallSites) {
  Scene scene{ProcessIdentity{}};
  EXPECT_TRUE(
      scene.ask(400 * kMiB, {"_create_buffers_normal sglang/srt/mem_cache/memory_pool.py:700"})
          .pool);
  EXPECT_TRUE(scene
                  .ask(16384 * kMiB, {},
                       {"ggml_backend_cuda_buffer_type_alloc_buffer@libggml-cuda.so",
                        "ggml_backend_alloc_ctx_tensors_from_buft@libggml-base.so",
                        "llama_kv_cache::llama_kv_cache(llama_model const&)@libllama.so"})
                  .pool);
  EXPECT_FALSE(scene
                   .ask(16384 * kMiB, {},
                        {"ggml_backend_alloc_ctx_tensors_from_buft@libggml-base.so",
                         "llama_model::load_tensors(llama_model_loader&)@libllama.so"})
                   .pool);
}

TEST(Recognizer, UserRulesGoFirst) {
  Rule deny;
  deny.action = Rule::Action::kDeny;
  deny.call_site = "_allocate_kv_cache_tensors";
  deny.source = "kvshim.toml:3";
  Rule allow;
  allow.call_site = "make_cache .*/mine\\.py";
  allow.min_size = 300 * kMiB;
  allow.max_size = 400 * kMiB;
  allow.role = "mine";
  allow.source = "kvshim.toml:7";
  Scene scene(vllm_server(), {deny, allow});
  const Decision denied = scene.ask(
      2884 * kMiB, {"_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:5000"});
  EXPECT_FALSE(denied.pool);
  EXPECT_EQ(denied.reason, "denied by the rule at kvshim.toml:3");
  const Decision allowed = scene.ask(350 * kMiB, {"make_cache /home/me/mine.py:5"});
  EXPECT_TRUE(allowed.pool);
  EXPECT_EQ(allowed.role, "mine");
  EXPECT_THAT(allowed.reason, HasSubstr("allowed by the rule at kvshim.toml:7"));
  EXPECT_FALSE(scene.ask(401 * kMiB, {"make_cache /home/me/mine.py:5"}).pool);
  EXPECT_FALSE(scene.ask(299 * kMiB, {"make_cache /home/me/mine.py:5"}).pool);
}

TEST(Recognizer, BelowTheThresholdNothingIsAPool) {
  Scene scene;
  EXPECT_EQ(scene.recognizer().threshold(), 256 * kMiB);
  const Decision decision = scene.ask(
      256 * kMiB - 1, {"_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:5000"});
  EXPECT_FALSE(decision.pool);
  EXPECT_THAT(decision.reason, HasSubstr("min_size"));
}

TEST(Recognizer, AKvConnectorLeavesPoolsAlone) {
  ProcessIdentity identity = vllm_server();
  identity.ancestors[0].push_back("--kv-transfer-config");
  Scene scene(identity);
  const Decision decision = scene.ask(
      2884 * kMiB, {"_allocate_kv_cache_tensors vllm/v1/worker/gpu_model_runner.py:5000"});
  EXPECT_FALSE(decision.pool);
  EXPECT_THAT(decision.reason, HasSubstr("KV connector"));
  EXPECT_THAT(scene.recognizer().obstacles(),
              ElementsAre(::testing::AllOf(HasSubstr("KV connector"), HasSubstr("remedy: "))));
  // A rule is the user's word and still holds.
  Rule allow;
  allow.call_site = "kv_cache";
  Scene insisting(identity, {allow});
  EXPECT_TRUE(
      insisting.ask(2884 * kMiB, {"_allocate_kv_cache vllm/v1/worker/gpu/attn_utils.py:1"}).pool);
}

TEST(Recognizer, ObstaclesNameTheirRemedy) {
  ProcessIdentity identity = vllm_server();
  EXPECT_THAT(Scene(identity).recognizer().obstacles(), IsEmpty());
  identity.wrapped_command = {"vllm", "serve", "m", "--enable-sleep-mode"};
  EXPECT_THAT(Scene(identity).recognizer().obstacles(), ElementsAre(HasSubstr("sleep mode")));
  ASSERT_EQ(setenv("PYTORCH_ALLOC_CONF", "garbage:1,expandable_segments:True", 1), 0);
  EXPECT_THAT(Scene().recognizer().obstacles(),
              ElementsAre(HasSubstr("remove expandable_segments:True")));
  ASSERT_EQ(setenv("PYTORCH_ALLOC_CONF", "expandable_segments:False", 1), 0);
  EXPECT_THAT(Scene().recognizer().obstacles(), IsEmpty());
  ASSERT_EQ(unsetenv("PYTORCH_ALLOC_CONF"), 0);
}

TEST(Recognizer, TheWarningComesOnceAndItsRuleWorks) {
  Scene scene{ProcessIdentity{}};
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "") << "nothing large yet";
  EXPECT_EQ(scene.recognizer().left_alone_warning(0, true), "") << "not at the end either";
  scene.ask(3000 * kMiB, {"load /opt/other/weights.py:10"});
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "") << "the first weights are no reason";
  for (int layer = 0; layer < 3; ++layer) {
    scene.ask(2884 * kMiB, {"make_cache(x) /opt/other/engine+.py:" + std::to_string(layer)});
  }
  EXPECT_EQ(scene.recognizer().left_alone_warning(1), "") << "there is a pool";
  const std::string warning = scene.recognizer().left_alone_warning(0);
  EXPECT_THAT(warning, HasSubstr("1 x 3000 MiB at load /opt/other/weights.py"));
  EXPECT_THAT(warning, HasSubstr("3 x 2884 MiB at make_cache(x) /opt/other/engine+.py"));
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "") << "once";
  EXPECT_EQ(scene.recognizer().left_alone_warning(0, true), "") << "and not again at the end";

  const std::size_t begin = warning.find("call_site = '") + 13;
  ASSERT_THAT(warning, HasSubstr("[[rules]]\naction = \"allow\"\ncall_site = '"));
  Rule rule;
  rule.call_site = warning.substr(begin, warning.find('\'', begin) - begin);
  rule.min_size = std::strtoul(warning.c_str() + warning.find("min_size = ") + 11, nullptr, 10);
  rule.max_size = std::strtoul(warning.c_str() + warning.find("max_size = ") + 11, nullptr, 10);
  Scene with_rule(ProcessIdentity{}, {rule});
  EXPECT_TRUE(with_rule.ask(2884 * kMiB, {"make_cache(x) /opt/other/engine+.py:77"}).pool);
  EXPECT_FALSE(with_rule.ask(3000 * kMiB, {"load /opt/other/weights.py:10"}).pool);
}

TEST(Recognizer, TheEndTellsWhatTheFirstWarningCouldNotKnow) {
  Scene scene{ProcessIdentity{}};
  for (int i = 0; i < 3; ++i) scene.ask(300 * kMiB, {"load /opt/other/weights.py:10"});
  EXPECT_THAT(scene.recognizer().left_alone_warning(0), HasSubstr("weights"));
  scene.ask(60000 * kMiB, {"make_cache /opt/other/engine.py:1"});
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "");
  EXPECT_THAT(scene.recognizer().left_alone_warning(0, true), HasSubstr("'make_cache "));
  EXPECT_EQ(scene.recognizer().left_alone_warning(0, true), "");
}

TEST(Recognizer, WeightsThatAProfileKnowsAreNoReasonToWarn) {
  Scene scene;
  for (int i = 0; i < 5; ++i) {
    scene.ask(900 * kMiB, {"create_weights vllm/model_executor/layers/linear.py:300"}, kEmpty);
  }
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "");
}

TEST(Recognizer, NoRuleIsSuggestedAgainstAKvConnector) {
  ProcessIdentity identity;
  identity.command_line = {"python", "serve.py", "--kv-transfer-config", "{}"};
  Scene scene(identity);
  for (int i = 0; i < 4; ++i) scene.ask(300 * kMiB, {"make_cache /opt/other/engine.py:1"});
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "") << "the obstacle has its own warning";
  const std::string warning = scene.recognizer().left_alone_warning(0, true);
  EXPECT_THAT(warning, HasSubstr("4 x 300 MiB at make_cache /opt/other/engine.py ("));
  EXPECT_THAT(warning, HasSubstr("its pages can't move"));
  EXPECT_THAT(warning, Not(HasSubstr("allow")));
}

TEST(Recognizer, NoRuleIsSuggestedForWhatAProfileKnowsAsSomethingElse) {
  Scene scene;
  for (int i = 0; i < 3; ++i) {
    scene.ask(60000 * kMiB, with_callers("allocate_uniform_kv_caches "
                                         "vllm/v1/worker/kv_connector_model_runner_mixin.py:90"));
  }
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "");
  const std::string warning = scene.recognizer().left_alone_warning(0, true);
  EXPECT_THAT(warning, HasSubstr("whose pages can't move"));
  EXPECT_THAT(warning, Not(HasSubstr("allow")));
}

TEST(Recognizer, NoRuleIsSuggestedAgainstTheUsersOwn) {
  Rule deny;
  deny.action = Rule::Action::kDeny;
  deny.call_site = "make_cache";
  deny.source = "kvshim.toml:3";
  Scene scene(ProcessIdentity{}, {deny});
  for (int i = 0; i < 4; ++i) scene.ask(8000 * kMiB, {"make_cache /opt/other/engine.py:1"});
  EXPECT_EQ(scene.recognizer().left_alone_warning(0), "");
  const std::string denied = scene.recognizer().left_alone_warning(0, true);
  EXPECT_THAT(denied, HasSubstr("(denied by the rule at kvshim.toml:3)"));
  EXPECT_THAT(denied, Not(HasSubstr("allow")));
  // A smaller one that nobody knows is the candidate.
  scene.ask(300 * kMiB, {"reserve /opt/other/engine.py:2"});
  const std::string unknown = scene.recognizer().left_alone_warning(0, true);
  EXPECT_THAT(unknown,
              HasSubstr("action = \"allow\"\ncall_site = 'reserve /opt/other/engine\\.py'"));
  EXPECT_THAT(unknown, HasSubstr("max_size = " + std::to_string(300 * kMiB)));
}

TEST(Recognizer, EveryDecisionHasAReason) {
  Scene scene{ProcessIdentity{}};
  EXPECT_EQ(scene.ask(300 * kMiB, {}).reason, "no rule and no profile knows the call-site");
  EXPECT_THAT(
      scene.ask(300 * kMiB, {"create_weights vllm/model_executor/layers/linear.py:300"}).reason,
      HasSubstr("no pool by vllm: weights"));
}

TEST(Recognizer, ThreadsThatAllocateTogetherAreAllCounted) {
  Scene scene{ProcessIdentity{}};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&scene] {
      for (int round = 0; round < 50; ++round) {
        AllocationRequest request;
        request.bytes = 300 * kMiB;
        request.call_site = capture_call_site();
        request.call_site.native = {"same@object"};
        scene.recognizer().decide(request);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(scene.recognizer().left_alone_warning(0), HasSubstr("200 x 300 MiB at same@object"));
}

TEST(ProcessIdentity, ReadsOwnCommandLineAndKvwrapsWord) {
  ASSERT_EQ(setenv("KVSHIM_COMMAND", "vllm\x1fserve\x1f\x1f--x y\x1f", 1), 0);
  const ProcessIdentity identity = read_process_identity();
  unsetenv("KVSHIM_COMMAND");
  ASSERT_THAT(identity.command_line, Not(IsEmpty()));
  EXPECT_THAT(identity.command_line[0], HasSubstr("heuristics_tests"));
  EXPECT_THAT(identity.executable, HasSubstr("heuristics_tests"));
  EXPECT_THAT(identity.wrapped_command, ElementsAre("vllm", "serve", "", "--x y", ""));
  EXPECT_THAT(loaded_objects(), ::testing::Contains(HasSubstr("libc.so")));
}

}  // namespace
}  // namespace kvshim::heuristics
