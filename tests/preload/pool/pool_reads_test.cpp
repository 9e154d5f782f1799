// Marks in front of readers: captured for one of sibling pools, and answered by a graph that
// was captured before anybody asked. Run a second time with cold_after = 0: then there are none.
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "pool_fixture.h"
#include "tests/engine/kernel_names.h"
#include "tests/engine/kernels.cuh"

extern "C" const char kvshim_ptx_kernels[];

namespace kvshim::preload {
namespace {

using engine::Attention;

bool followed() { return std::getenv("KVSHIM_COLD_AFTER") == nullptr; }

/// A number of this process's status file; -1: there is none yet.
long status(const std::string& name) {
  std::ifstream file(std::string(std::getenv("KVSHIM_STATUS_DIR")) + "/" +
                     std::to_string(getpid()) + ".json");
  std::stringstream text;
  text << file.rdbuf();
  const std::size_t at = text.str().find("\"" + name + "\": ");
  return at == std::string::npos ? -1 : std::stol(text.str().substr(at + name.size() + 4));
}

class PoolReads : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    // Siblings are made in one place.
    for (CUdeviceptr& layer : layers_) ASSERT_EQ(cuMemAlloc_v2(&layer, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleLoadData(&module_, kvshim_ptx_kernels), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(
                  &reader_, module_,
                  engine::kKernelNames[static_cast<std::size_t>(engine::KernelName::kReader)]),
              CUDA_SUCCESS);
    // Tokens of padding, which read nothing; a table of block 3 alone.
    ASSERT_EQ(cuMemsetD8_v2(plain_, 0xff, 4096), CUDA_SUCCESS);
    const std::int32_t id = 3, length = 16;
    ASSERT_EQ(cuMemcpyHtoD_v2(plain_ + kMiB, &id, sizeof id), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyHtoD_v2(plain_ + 2 * kMiB, &length, sizeof length), CUDA_SUCCESS);
  }
  void TearDown() override {
    for (const CUdeviceptr layer : layers_) {
      if (layer != 0) {
        EXPECT_EQ(cuMemFree_v2(layer), CUDA_SUCCESS);
      }
    }
    if (module_ != nullptr) {
      EXPECT_EQ(cuModuleUnload(module_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }
  void read(CUdeviceptr pool, CUstream stream) {
    const auto at = [](CUdeviceptr address) { return reinterpret_cast<void*>(address); };  // NOLINT
    Attention::Params params{};
    params.places = static_cast<const engine::TokenPlace*>(at(plain_));
    params.key_cache = static_cast<const unsigned char*>(at(pool));
    params.value_cache = static_cast<const unsigned char*>(at(pool + kPoolBytes / 2));
    params.query_heads = params.heads = params.heads_divisor = 1;
    params.query_dimension = params.dimension = params.value_dimension = 64;
    params.block_size = params.block_divisor = 16;
    params.key_row = params.value_row = params.key_head = params.value_head = 64;
    params.key_block = params.value_block = std::int64_t{64} * 16;
    params.block_table = static_cast<const std::int32_t*>(at(plain_ + kMiB));
    params.lengths = static_cast<const std::int32_t*>(at(plain_ + 2 * kMiB));
    params.sequences = 1;
    params.table_row = 1;
    void* arguments[] = {&params};
    EXPECT_EQ(cuLaunchKernel(reader_, 1, 1, 1, 32, 1, 1, 0, stream, arguments, nullptr),
              CUDA_SUCCESS);
  }
  CUgraph captured() {
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
    for (const CUdeviceptr layer : layers_) read(layer, stream_);
    EXPECT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_SUCCESS);
    return graph;
  }

  std::array<CUdeviceptr, 2> layers_{};
  CUmodule module_ = nullptr;
  CUfunction reader_ = nullptr;
};

TEST_F(PoolReads, ACaptureGetsAMarkForOneOfSiblings) {
  for (int again = 0; again < 2; ++again) {
    CUgraph graph = captured();
    std::size_t nodes = 0;
    ASSERT_EQ(cuGraphGetNodes(graph, nullptr, &nodes), CUDA_SUCCESS);
    EXPECT_EQ(nodes, followed() ? 3u : 2u);
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  }
}

TEST_F(PoolReads, AGraphAnswersWhenItIsAsked) {
  CUgraph graph = captured();
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(followed() ? 30 : 3);
  while (status("readers_answered") < 1 && std::chrono::steady_clock::now() < end) {
    ASSERT_EQ(cuGraphLaunch(exec, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_EQ(status("readers_answered") >= 1, followed());
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
