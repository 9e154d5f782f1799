// Copies and fills that are added to a graph by hand, or set later, over pages that are absent.
#include <functional>
#include <string>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

constexpr std::size_t kNodeAt = 4 * kMiB - 4096;  // across the border of two granules
constexpr std::size_t kNodeBytes = 64 * 1024;
constexpr std::uint8_t kValue = 9;

CUDA_MEMSET_NODE_PARAMS fill_of(CUdeviceptr memory) {
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = memory + kNodeAt;
  fill.value = kValue;
  fill.elementSize = 1;
  fill.width = kNodeBytes;
  fill.height = 1;
  return fill;
}

CUDA_MEMCPY3D copy_of(CUdeviceptr memory, CUdeviceptr from) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = from;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = memory + kNodeAt;
  copy.WidthInBytes = kNodeBytes;
  copy.Height = copy.Depth = 1;
  return copy;
}

class ManualGraph : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuMemsetD8_v2(plain_, kValue, kNodeBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    fresh();
  }
  void TearDown() override {
    open_.store(true);
    if (graph_ != nullptr) {
      EXPECT_EQ(cuGraphDestroy(graph_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }
  void fresh() {
    if (graph_ != nullptr) {
      ASSERT_EQ(cuGraphDestroy(graph_), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuGraphCreate(&graph_, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
  }
  CUgraphNodeParams node_of(const CUDA_MEMSET_NODE_PARAMS& fill) {
    CUgraphNodeParams params{};
    params.type = CU_GRAPH_NODE_TYPE_MEMSET;
    params.memset.dst = fill.dst;
    params.memset.value = fill.value;
    params.memset.elementSize = fill.elementSize;
    params.memset.width = fill.width;
    params.memset.height = fill.height;
    params.memset.ctx = context_;
    return params;
  }
  CUgraphNodeParams node_of(const CUDA_MEMCPY3D& copy) {
    CUgraphNodeParams params{};
    params.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    params.memcpy.copyCtx = context_;
    params.memcpy.copyParams = copy;
    return params;
  }
  void expect_written(const std::string& how) {
    CUgraphExec exec = nullptr;
    ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph_, 0), CUDA_SUCCESS) << how;
    ASSERT_EQ(cuGraphLaunch(exec, stream_), CUDA_SUCCESS) << how;
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS) << how;
    EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS) << how;
    EXPECT_EQ(contents(pool_ + kNodeAt, kNodeBytes), std::vector<std::uint8_t>(kNodeBytes, kValue))
        << how;
  }

  std::atomic<bool> open_{false};
  CUgraph graph_ = nullptr;
};

TEST_F(ManualGraph, NodesAreTaken) {
  CUgraphNode node = nullptr;
  const std::vector<std::pair<const char*, std::function<CUresult()>>> ways = {
      {"memset",
       [&] {
         const auto fill = fill_of(pool_);
         return cuGraphAddMemsetNode(&node, graph_, nullptr, 0, &fill, context_);
       }},
      {"memcpy",
       [&] {
         const auto copy = copy_of(pool_, plain_);
         return cuGraphAddMemcpyNode(&node, graph_, nullptr, 0, &copy, context_);
       }},
      {"memset by cuGraphAddNode",
       [&] {
         auto params = node_of(fill_of(pool_));
         return cuGraphAddNode(&node, graph_, nullptr, 0, &params);
       }},
      {"memcpy by cuGraphAddNode_v2",
       [&] {
         auto params = node_of(copy_of(pool_, plain_));
         return cuGraphAddNode_v2(&node, graph_, nullptr, nullptr, 0, &params);
       }},
  };
  for (const auto& [name, add] : ways) {
    fresh();
    ASSERT_EQ(add(), CUDA_SUCCESS) << name;
    expect_written(name);
  }
}

TEST_F(ManualGraph, ParametersAreTaken) {
  CUgraphNode fill_node = nullptr, copy_node = nullptr;
  const std::vector<std::pair<const char*, std::function<CUresult()>>> ways = {
      {"memset",
       [&] {
         const auto fill = fill_of(pool_);
         return cuGraphMemsetNodeSetParams(fill_node, &fill);
       }},
      {"memcpy",
       [&] {
         const auto copy = copy_of(pool_, plain_);
         return cuGraphMemcpyNodeSetParams(copy_node, &copy);
       }},
      {"memset by cuGraphNodeSetParams",
       [&] {
         auto params = node_of(fill_of(pool_));
         return cuGraphNodeSetParams(fill_node, &params);
       }},
  };
  for (const auto& [name, set] : ways) {
    fresh();
    const auto fill = fill_of(plain_);
    const auto copy = copy_of(plain_, plain_);
    ASSERT_EQ(cuGraphAddMemsetNode(&fill_node, graph_, nullptr, 0, &fill, context_), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphAddMemcpyNode(&copy_node, graph_, nullptr, 0, &copy, context_), CUDA_SUCCESS);
    ASSERT_EQ(set(), CUDA_SUCCESS) << name;
    expect_written(name);
  }
}

TEST_F(ManualGraph, ANodeWaitsForUnfinishedReaders) {
  ASSERT_EQ(cuLaunchHostFunc(stream_, until_open, &open_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(plain_ + 2 * kMiB, pool_ + kNodeAt, kNodeBytes, stream_),
            CUDA_SUCCESS);
  std::thread opener([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    open_.store(true);
  });
  CUgraphNode node = nullptr;
  const auto fill = fill_of(pool_);
  EXPECT_EQ(cuGraphAddMemsetNode(&node, graph_, nullptr, 0, &fill, context_), CUDA_SUCCESS);
  opener.join();
  expect_written("behind a reader");
}

TEST_F(ManualGraph, WhatTheDriverRefusesStaysRefused) {
  CUgraphNode node = nullptr;
  EXPECT_NE(cuGraphAddMemsetNode(&node, graph_, nullptr, 0, nullptr, context_), CUDA_SUCCESS);
  auto fill = fill_of(pool_);
  fill.elementSize = 3;
  EXPECT_EQ(cuGraphAddMemsetNode(&node, graph_, nullptr, 0, &fill, context_),
            CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace kvshim::preload
