// Instantiation: which executables need pins, what they reach, and for how long.
#include <gmock/gmock.h>

#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

// The driver refuses to instantiate a copy or fill of a page that is read-only still.
TEST_F(Graph, InstantiationWaitsForWhatItPinned) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kPoolBase));
  instantiate(graph);
  EXPECT_EQ(AccessList{gate().waited_for}, kWholePoolWritten);
  gate().waited_for.clear();
  instantiate(captured_writer());
  EXPECT_EQ(AccessList{gate().waited_for}, kNothing) << "guards run in front of the nodes";
}

TEST_F(Graph, AReadersResultInTheLastGranuleIsPinned) {
  const CUfunction reader = driver().add_function(0x1300, "kernel_unified_attention_2d", {8, 8});
  const std::uint64_t result = kPoolBase + kPoolBytes - kMiB;
  CUgraph graph = empty_graph();
  Arguments arguments;
  add_kernel(graph, reader, arguments.add(result).add(kPoolBase));
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{result, kMiB, true}}}));
}

TEST_F(Graph, ACapturedGraphNeedsNoPinAndSubmitsItsReach) {
  CUgraphExec exec = instantiate(captured_writer());
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  EXPECT_EQ(gate().work[0].stream.handle, kStream);
}

TEST_F(Graph, AGraphThatReachesNoPoolGoesStraightThrough) {
  begin();
  launch(unknown_, unknown_arguments(kElsewhere), 1, kStream);
  CUgraphExec exec = instantiate(end());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kNothing);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, WithoutAPoolNoGraphIsLookedAt) {
  reset_gate(false);
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  const int queries = driver().layout_queries;
  CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(driver().layout_queries, queries);
  EXPECT_EQ(AccessList{launched_reach(exec)}, kNothing);
}

TEST_F(Graph, TheGuardsOwnNodesAreNoReach) {
  CUfunction guard = driver().add_function(0x3000, vmm::kLinearGuardName, {272});
  gate().add_pool(kPoolBase + kPoolBytes, kPoolBytes);  // begins where the guard's pool ends
  begin();
  Arguments arguments;
  arguments.add_bytes(struct_with_word(272, 40 + 40 + 40, kPoolBase + kPoolBytes));
  driver_table().cuLaunchKernel(guard, 1, 1, 1, 1, 1, 1, 0, kStream, arguments.params(), nullptr);
  launch(writer_, writer_arguments(), 4, kStream);
  CUgraphExec exec = instantiate(end());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

// A branch that was added beside a guarded writer reads while the guard asks.
TEST_F(Graph, OneWithGuardsThatWasEditedIsInNoOrderWithThem) {
  begin();
  launch_guarded_writer();
  CUgraph graph = end();
  CUgraphExec exec = instantiate(graph);
  launched_reach(exec);
  EXPECT_EQ(AccessList{gate().in_no_order}, kNothing) << "captured as it is, all stands in order";
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere, kPoolBase));
  CUgraphExec edited = instantiate(graph);
  launched_reach(edited);
  EXPECT_EQ(AccessList{gate().in_no_order}, kWholePoolRead);
  gate().in_no_order.clear();
  launched_reach(exec);
  EXPECT_EQ(AccessList{gate().in_no_order}, kNothing) << "made before";
  EXPECT_EQ(hook_cuGraphExecUpdate_v2(exec, graph, nullptr), CUDA_SUCCESS);
  launched_reach(exec);
  EXPECT_EQ(AccessList{gate().in_no_order}, kWholePoolRead);
}

TEST_F(Graph, ACapturedGraphBesideOthersInOneBuiltByHandIsInNoOrderWithThem) {
  begin();
  launch_guarded_writer();
  CUgraph child = end();
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere, kPoolBase));
  launched_reach(instantiate(graph));
  EXPECT_EQ(AccessList{gate().in_no_order}, kNothing) << "nobody asks in it";
  CUgraphNode node = nullptr;
  ASSERT_EQ(hook_cuGraphAddChildGraphNode(&node, graph, nullptr, 0, child), CUDA_SUCCESS);
  launched_reach(instantiate(graph));
  EXPECT_EQ(AccessList{gate().in_no_order}, kWholePoolRead);
}

TEST_F(Graph, AWriterInAGraphBuiltByHandPinsItsWholePool) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, AnUnknownKernelInAGraphBuiltByHandPinsFromItsWordOn) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kPoolBase + kPoolBytes - kMiB));
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{kPoolBase + kPoolBytes - kMiB, kMiB, true}}}));
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].words, "p0+0/8");
  EXPECT_THAT(gate().remembered, ::testing::ElementsAre(kPoolBase + kPoolBytes - kMiB));
}

TEST_F(Graph, AReaderInAGraphBuiltByHandPinsNothing) {
  CUgraph graph = empty_graph();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere, kPoolBase));
  CUgraphExec exec = instantiate(graph);
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, AGraphOfTheExtraFormIsReadAsWell) {
  Arguments arguments = unknown_arguments(kPoolBase);
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = unknown_;
  params.gridDimX = 1;
  params.extra = arguments.extra(driver().functions.at(unknown_).params);
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  hook_cuGraphAddKernelNode_v2(&node, graph, nullptr, 0, &params);
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, ANodeOfAKernelIsRead) {
  CUfunction kernel = driver().add_function(0x2000, kUnknownKernel, {8, 8, 4}, true);
  CUgraph graph = empty_graph();
  add_kernel(graph, kernel, unknown_arguments(kPoolBase + kPoolBytes - kMiB));
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{kPoolBase + kPoolBytes - kMiB, kMiB, true}}}));
}

TEST_F(Graph, TheDestroyedExecutablesPinsEnd) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(gate().pins.size(), 1u);
  EXPECT_EQ(hook_cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, AFailedPinFailsTheInstantiation) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  gate().pin_result = CUDA_ERROR_OUT_OF_MEMORY;
  CUgraphExec exec = nullptr;
  EXPECT_EQ(hook_cuGraphInstantiate_v2(&exec, graph, nullptr, nullptr, 0),
            CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_TRUE(driver().executables.empty());
}

TEST_F(Graph, AFailedInstantiationKeepsNoPin) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  driver().next_result = CUDA_ERROR_OUT_OF_MEMORY;
  CUgraphExec exec = nullptr;
  EXPECT_EQ(hook_cuGraphInstantiate(&exec, graph, nullptr, nullptr, 0), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, AChildGraphIsRead) {
  CUgraph child = captured_writer();
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  ASSERT_EQ(hook_cuGraphAddChildGraphNode(&node, graph, nullptr, 0, child), CUDA_SUCCESS);
  CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, TheBodiesOfConditionalNodesAreRead) {
  CUgraph graph = empty_graph();
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
  params.conditional.size = 2;
  CUgraphNode node = nullptr;
  ASSERT_EQ(hook_cuGraphAddNode_v2(&node, graph, nullptr, nullptr, 0, &params), CUDA_SUCCESS);
  add_kernel(params.conditional.phGraph_out[1], writer_, writer_arguments());
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, ANodeThatCantBeReadReachesEveryPool) {
  gate().add_pool(kPoolBase + 2 * kPoolBytes, kPoolBytes);
  CUgraph graph = empty_graph();
  CUgraphNode node = add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  fake(node)->readable = false;
  CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(pinned().size(), 2u);
  EXPECT_EQ(launched_reach(exec).size(), 2u);
}

TEST_F(Graph, CopiesFillsAndMemoryOperationsPinTheirDestinations) {
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = &copy;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = kPoolBase;
  copy.dstXInBytes = 16;
  copy.dstY = 1;
  copy.dstPitch = 4096;
  copy.WidthInBytes = 100;
  copy.Height = 3;
  copy.Depth = 1;
  hook_cuGraphAddMemcpyNode(&node, graph, nullptr, 0, &copy, nullptr);
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = kPoolBase + 8 * kMiB;
  fill.elementSize = 4;
  fill.width = 256;
  fill.height = 1;
  hook_cuGraphAddMemsetNode(&node, graph, nullptr, 0, &fill, nullptr);
  CUstreamBatchMemOpParams operations[2] = {};
  operations[0].writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_64, kPoolBase + 16 * kMiB, {1}, 0, 0};
  operations[1].waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, kPoolBase + 24 * kMiB, {1}, 0, 0};
  CUDA_BATCH_MEM_OP_NODE_PARAMS batch{};
  batch.count = 2;
  batch.paramArray = operations;
  hook_cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &batch);
  CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, (AccessList{{{kPoolBase + 4096 + 16, 2 * 4096 + 100, true},
                                               {kPoolBase + 8 * kMiB, 1024, true},
                                               {kPoolBase + 16 * kMiB, 8, true}}}));
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

// The driver looks at it when the node is made; the graph keeps nothing before it is instantiated.
TEST_F(Graph, WhatANodeFillsIsPresentForTheCall) {
  const PinId pins_before = gate().last_pin;
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = kPoolBase + 8 * kMiB;
  fill.elementSize = 4;
  fill.width = 256;
  fill.height = 1;
  ASSERT_EQ(hook_cuGraphAddMemsetNode(&node, graph, nullptr, 0, &fill, nullptr), CUDA_SUCCESS);
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_MEMSET;
  params.memset.dst = kPoolBase + 16 * kMiB;
  params.memset.elementSize = 1;
  params.memset.width = 100;
  params.memset.height = 1;
  ASSERT_EQ(hook_cuGraphAddNode_v2(&node, graph, nullptr, nullptr, 0, &params), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{gate().waited_for},
            (AccessList{{{kPoolBase + 8 * kMiB, 1024, true}, {kPoolBase + 16 * kMiB, 100, true}}}));
  EXPECT_EQ(gate().last_pin, pins_before + 2);
  EXPECT_TRUE(gate().pins.empty());
  gate().pin_result = CUDA_ERROR_OUT_OF_MEMORY;
  EXPECT_EQ(hook_cuGraphAddMemsetNode(&node, graph, nullptr, 0, &fill, nullptr),
            CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(fake(graph)->nodes.size(), 2u) << "the driver was not asked";
}

TEST_F(Graph, ACopyOutOfAPoolPinsNothing) {
  CUgraph graph = empty_graph();
  CUgraphNode node = nullptr;
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
  copy.srcDevice = kPoolBase;
  copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  copy.dstDevice = kElsewhere;
  copy.WidthInBytes = 4 * kMiB;
  copy.Height = copy.Depth = 1;
  hook_cuGraphAddMemcpyNode(&node, graph, nullptr, 0, &copy, nullptr);
  CUgraphExec exec = instantiate(graph);
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, WhatTheDeviceLaunchesKeepsAllItTouches) {
  begin();
  launch(unknown_, unknown_arguments(kElsewhere, kPoolBase), 1, kStream);  // a reader
  instantiate(end(), CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolRead);
}

TEST_F(Graph, InstantiationByParametersHonoursItsFlags) {
  CUDA_GRAPH_INSTANTIATE_PARAMS params{};
  params.flags = CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH;
  CUgraphExec exec = nullptr;
  EXPECT_EQ(hook_cuGraphInstantiateWithParams(&exec, captured_writer(), &params), CUDA_SUCCESS);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolRead);
}

TEST_F(Graph, ADeviceUpdatableNodeKeepsAllItTouches) {
  begin();
  Arguments arguments = unknown_arguments(kElsewhere, kPoolBase);
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE;
  attribute.value.deviceUpdatableKernelNode.deviceUpdatable = 1;
  CUlaunchConfig config{};
  config.gridDimX = 1;
  config.hStream = kStream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  hook_cuLaunchKernelEx(&config, unknown_, arguments.params(), nullptr);
  CUgraph graph = end();
  EXPECT_FALSE(graph_is_guarded(graph));
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolRead);
  EXPECT_EQ(gate().read_node_changes, 1) << "a mark in front of it would keep the old parameters";
}

// It named no pool when it was captured, perhaps in a branch beside the guard.
TEST_F(Graph, ANodeOfAnExecutableThatBecomesAReaderIsInNoOrderWithGuards) {
  const CUfunction reader = driver().add_function(0x1300, "kernel_unified_attention_2d", {8, 8});
  begin();
  launch_guarded_writer();
  launch(unknown_, unknown_arguments(kElsewhere), 1, kStream);
  CUgraph graph = end();
  CUgraphExec exec = instantiate(graph);
  launched_reach(exec);
  EXPECT_EQ(AccessList{gate().in_no_order}, kNothing);
  Arguments arguments;
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(reader, &arguments.add(kElsewhere).add(kPoolBase));
  const auto node = reinterpret_cast<CUgraphNode>(fake(graph)->nodes.back().get());
  ASSERT_EQ(hook_cuGraphExecKernelNodeSetParams_v2(exec, node, &params), CUDA_SUCCESS);
  launched_reach(exec);
  EXPECT_FALSE(gate().in_no_order.empty());
}

}  // namespace
}  // namespace kvshim::preload::testing
