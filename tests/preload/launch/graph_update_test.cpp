// Executables that are updated, or whose nodes are changed.
#include <algorithm>

#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

TEST_F(Graph, AnUpdateTakesTheNewGraphsReach) {
  const std::uint64_t other = kPoolBase + 2 * kPoolBytes;
  gate().add_pool(other, kPoolBytes);
  CUgraphExec exec = instantiate(captured_writer());
  begin();
  launch(writer_, writer_arguments(other), 4, kStream);
  CUgraphExecUpdateResultInfo info{};
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, end(), &info), CUDA_SUCCESS);
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, (AccessList{{{other, kPoolBytes, false}}}));
}

TEST_F(Graph, AnUpdateFromACapturedGraphEndsThePins) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(gate().pins.size(), 1u);
  CUgraphExecUpdateResultInfo info{};
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, captured_writer(), &info), CUDA_SUCCESS);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, AnUpdateFromAGraphBuiltByHandPins) {
  CUgraphExec exec = instantiate(captured_writer());
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraphExecUpdateResultInfo info{};
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, graph, &info), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, AFailedUpdateKeepsBothReaches) {
  const std::uint64_t other = kPoolBase + 2 * kPoolBytes;
  gate().add_pool(other, kPoolBytes);
  CUgraphExec exec = instantiate(captured_writer());
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments(other));
  driver().next_result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  CUgraphExecUpdateResultInfo info{};
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, graph, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
  driver().next_result = CUDA_SUCCESS;
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{other, kPoolBytes, true}}}));
  EXPECT_EQ(launched_reach(exec).size(), 2u);
  hook_cuGraphExecDestroy(exec);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, ANodeChangedInAGuardedExecutableIsPinned) {
  const std::uint64_t other = kPoolBase + 2 * kPoolBytes;
  gate().add_pool(other, kPoolBytes);
  CUgraphExec exec = instantiate(captured_writer());
  Arguments arguments = writer_arguments(other);
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(writer_, &arguments);
  EXPECT_EQ(hook_cuGraphExecKernelNodeSetParams_v2(exec, nullptr, &params), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{other, kPoolBytes, true}}}));
  EXPECT_EQ(AccessList{launched_reach(exec)},
            (AccessList{{{kPoolBase, kPoolBytes, false}, {other, kPoolBytes, false}}}));
  hook_cuGraphExecKernelNodeSetParams_v2(exec, nullptr, &params);  // covered already
  EXPECT_EQ(gate().pins.size(), 1u);
}

TEST_F(Graph, ANodeThatReadsAnywhereFromNowOnIsNotTakenForOneThatDoesnt) {
  CUgraphExec exec = instantiate(captured_writer());
  const auto reads_anywhere = [](const Access& access) {
    return !access.writes && !access.stays_in_written;
  };
  std::vector<Access> reach = launched_reach(exec);
  EXPECT_TRUE(std::none_of(reach.begin(), reach.end(), reads_anywhere));
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = kPoolBase;
  copy.dstDevice = kElsewhere;
  copy.WidthInBytes = 4096;
  copy.Height = copy.Depth = 1;
  ASSERT_EQ(hook_cuGraphExecMemcpyNodeSetParams(exec, nullptr, &copy, nullptr), CUDA_SUCCESS);
  reach = launched_reach(exec);
  EXPECT_TRUE(std::any_of(reach.begin(), reach.end(), reads_anywhere));
}

TEST_F(Graph, AFailedChangeKeepsNoPin) {
  CUgraphExec exec = instantiate(captured_writer());
  Arguments arguments = writer_arguments();
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(writer_, &arguments);
  driver().next_result = CUDA_ERROR_INVALID_VALUE;
  EXPECT_EQ(hook_cuGraphExecKernelNodeSetParams_v2(exec, nullptr, &params),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, AnExecutableWithoutReachCanGetOne) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  CUgraphExec exec = instantiate(graph);
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_KERNEL;
  Arguments arguments = unknown_arguments(kPoolBase);
  params.kernel.func = unknown_;
  params.kernel.gridDimX = 1;
  params.kernel.kernelParams = arguments.params();
  EXPECT_EQ(hook_cuGraphExecNodeSetParams(exec, nullptr, &params), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, ChangesAtEveryStepDontPileUpPins) {
  CUgraphExec exec = instantiate(captured_writer());
  for (std::size_t i = 0; i < 500; ++i) {
    // From the end down: each reaches further than all before.
    Arguments arguments = unknown_arguments(kPoolBase + kPoolBytes - (i + 1) * 8);
    CUDA_KERNEL_NODE_PARAMS params = kernel_params(unknown_, &arguments);
    hook_cuGraphExecKernelNodeSetParams_v2(exec, nullptr, &params);
  }
  EXPECT_LE(gate().pins.size(), 17u);
}

TEST_F(Graph, WithoutItsGuardAnExecutableKeepsWhatItReaches) {
  const CUfunction guard = driver().add_function(0x3000, vmm::kLinearGuardName, {272});
  driver_table().cuGraphNodeSetEnabled = [](CUgraphExec, CUgraphNode, unsigned int) {
    return CUDA_SUCCESS;
  };
  begin();
  Arguments nothing;
  nothing.add_bytes(std::vector<unsigned char>(272));
  driver_table().cuLaunchKernel(guard, 1, 1, 1, 1, 1, 1, 0, kStream, nothing.params(), nullptr);
  launch(writer_, writer_arguments(), 4, kStream);
  CUgraph graph = end();
  const auto guard_node = reinterpret_cast<CUgraphNode>(fake(graph)->nodes[0].get());
  const auto writer_node = reinterpret_cast<CUgraphNode>(fake(graph)->nodes[1].get());
  CUgraphExec exec = instantiate(graph), other = instantiate(graph);

  EXPECT_EQ(hook_cuGraphNodeSetEnabled(exec, writer_node, 0), CUDA_SUCCESS);
  EXPECT_EQ(hook_cuGraphNodeSetEnabled(exec, guard_node, 1), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kNothing) << "the guard is there";
  EXPECT_EQ(hook_cuGraphNodeSetEnabled(exec, guard_node, 0), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolRead);
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, graph, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolRead) << "a disabled node stays disabled";

  CUDA_KERNEL_NODE_PARAMS params = kernel_params(guard, &nothing);
  EXPECT_EQ(hook_cuGraphExecKernelNodeSetParams_v2(other, guard_node, &params), CUDA_SUCCESS);
  EXPECT_EQ(pinned().size(), 2u) << "other slots are looked up than the writer's";
}

TEST_F(Graph, AChildGraphWithGuardsCanBeSetWithoutAPin) {
  CUgraphExec exec = instantiate(captured_writer());
  EXPECT_EQ(hook_cuGraphExecChildGraphNodeSetParams(exec, nullptr, captured_writer()),
            CUDA_SUCCESS);
  EXPECT_TRUE(gate().pins.empty());
  CUgraph by_hand = empty_graph();
  add_kernel(by_hand, writer_, writer_arguments());
  hook_cuGraphExecChildGraphNodeSetParams(exec, nullptr, by_hand);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, APinDoesntCoverALaterPoolAtTheSameAddress) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(gate().pins.size(), 1u);
  gate().pools[0].buffer_id = 77;  // freed, and another one made
  Arguments arguments = writer_arguments();
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(writer_, &arguments);
  hook_cuGraphExecKernelNodeSetParams_v2(exec, nullptr, &params);
  EXPECT_EQ(gate().pins.size(), 2u);
}

}  // namespace
}  // namespace kvshim::preload::testing
