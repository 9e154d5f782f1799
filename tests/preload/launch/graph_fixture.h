// Graphs by hand and by capture, with the fake driver and gate.
#pragma once

#include <vector>

#include "preload/graph_capture.h"
#include "preload/launch.h"
#include "tests/preload/launch/launch_fixture.h"

namespace kvshim::preload::testing {

inline const auto kStream = reinterpret_cast<CUstream>(0x5000);

class Graph : public LaunchFixture {
 protected:
  static void begin(CUstream stream = kStream) {
    ASSERT_EQ(hook_cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  }
  static CUgraph end(CUstream stream = kStream) {
    CUgraph graph = nullptr;
    EXPECT_EQ(hook_cuStreamEndCapture(stream, &graph), CUDA_SUCCESS);
    return graph;
  }
  CUgraph captured_writer() {
    begin();
    launch(writer_, writer_arguments(), 4, kStream);
    CUgraph graph = end();
    gate().work.clear();
    return graph;
  }
  /// The real gate would launch the guard by itself.
  void launch_guarded_writer() {
    const CUfunction guard = driver().add_function(0x3000, vmm::kLinearGuardName, {272});
    Arguments nothing;
    nothing.add_bytes(std::vector<unsigned char>(272));
    driver_table().cuLaunchKernel(guard, 1, 1, 1, 1, 1, 1, 0, kStream, nothing.params(), nullptr);
    launch(writer_, writer_arguments(), 4, kStream);
  }
  static CUgraph empty_graph() {
    auto* graph = new FakeGraph;
    driver().graphs.insert(graph);
    return reinterpret_cast<CUgraph>(graph);
  }
  static CUgraphNode add_kernel(CUgraph graph, CUfunction function, Arguments arguments,
                                unsigned int grid = 4) {
    CUDA_KERNEL_NODE_PARAMS params = kernel_params(function, &arguments, grid);
    CUgraphNode node = nullptr;
    EXPECT_EQ(hook_cuGraphAddKernelNode_v2(&node, graph, nullptr, 0, &params), CUDA_SUCCESS);
    return node;
  }
  static CUDA_KERNEL_NODE_PARAMS kernel_params(CUfunction function, Arguments* arguments,
                                               unsigned int grid = 4) {
    CUDA_KERNEL_NODE_PARAMS params{};
    params.func = function;
    params.gridDimX = grid;
    params.gridDimY = params.gridDimZ = 1;
    params.blockDimX = params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = arguments->params();
    return params;
  }
  static CUgraphExec instantiate(CUgraph graph, unsigned long long flags = 0) {
    CUgraphExec exec = nullptr;
    EXPECT_EQ(hook_cuGraphInstantiateWithFlags(&exec, graph, flags), CUDA_SUCCESS);
    return exec;
  }
  static std::vector<Access> pinned() {
    std::vector<Access> all;
    for (const auto& [id, ranges] : gate().pins)
      all.insert(all.end(), ranges.begin(), ranges.end());
    return all;
  }
  /// What a launch of the executable submits; empty when it goes straight through.
  static std::vector<Access> launched_reach(CUgraphExec exec, CUstream stream = kStream) {
    gate().work.clear();
    const std::size_t before = driver().launches.size();
    EXPECT_EQ(hook_cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    EXPECT_EQ(driver().launches.size(), before + 1);
    if (gate().work.empty()) return {};
    EXPECT_EQ(gate().work.size(), 1u);
    return gate().work[0].accesses;
  }

  const AccessList kWholePoolRead{{{kPoolBase, kPoolBytes, false}}};
  const AccessList kWholePoolWritten{{{kPoolBase, kPoolBytes, true}}};
  const AccessList kNothing{};
};

}  // namespace kvshim::preload::testing
