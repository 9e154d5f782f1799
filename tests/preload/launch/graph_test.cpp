// Graphs: which executables need pins, what they reach, and for how long.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/graph_capture.h"
#include "preload/launch.h"
#include "tests/preload/launch/launch_fixture.h"

namespace kvshim::preload::testing {
namespace {

const auto kStream = reinterpret_cast<CUstream>(0x5000);

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

TEST_F(Graph, ANodeAddedToACapturedGraphMakesItManual) {
  CUgraph graph = captured_writer();
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, ANodeAddedWhileCapturingMakesItManual) {
  begin();
  CUgraph graph = reinterpret_cast<CUgraph>(driver().captures.at(kStream).graph);
  add_kernel(graph, writer_, writer_arguments());
  instantiate(end());
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, AChangedNodeMakesCapturedGraphsManual) {
  CUgraph graph = captured_writer();
  Arguments arguments = writer_arguments();
  CUDA_KERNEL_NODE_PARAMS params = kernel_params(writer_, &arguments);
  auto* node = reinterpret_cast<CUgraphNode>(fake(graph)->nodes[0].get());
  EXPECT_EQ(hook_cuGraphKernelNodeSetParams_v2(node, &params), CUDA_SUCCESS);
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, ARemovedNodeMakesCapturedGraphsManual) {
  CUgraph graph = captured_writer();
  hook_cuGraphDestroyNode(reinterpret_cast<CUgraphNode>(fake(graph)->nodes[0].get()));
  instantiate(graph);
  EXPECT_EQ(gate().pins.size(), 1u);
}

TEST_F(Graph, EditsLeaveExecutablesAlone) {
  CUgraph graph = captured_writer();
  CUgraphExec exec = instantiate(graph);
  add_kernel(graph, unknown_, unknown_arguments(kElsewhere));
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
  EXPECT_TRUE(gate().pins.empty());
}

TEST_F(Graph, ACaptureIntoAGraphOfTheCallersIsManual) {
  CUgraph graph = empty_graph();
  ASSERT_EQ(hook_cuStreamBeginCaptureToGraph(kStream, graph, nullptr, nullptr, 0,
                                             CU_STREAM_CAPTURE_MODE_GLOBAL),
            CUDA_SUCCESS);
  launch(writer_, writer_arguments(), 4, kStream);
  EXPECT_EQ(end(), graph);
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, AHandleUsedAgainIsNotTakenForTheCapturedGraph) {
  CUgraph graph = captured_writer();
  EXPECT_TRUE(graph_is_guarded(graph));
  hook_cuGraphDestroy(graph);
  EXPECT_FALSE(graph_is_guarded(graph));
}

TEST_F(Graph, TheCloneOfACapturedGraphHasItsGuards) {
  CUgraph clone = nullptr;
  ASSERT_EQ(hook_cuGraphClone(&clone, captured_writer()), CUDA_SUCCESS);
  CUgraphExec exec = instantiate(clone);
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, TheCloneOfAGraphBuiltByHandHasNone) {
  CUgraph graph = empty_graph();
  add_kernel(graph, writer_, writer_arguments());
  CUgraph clone = nullptr;
  ASSERT_EQ(hook_cuGraphClone(&clone, graph), CUDA_SUCCESS);
  instantiate(clone);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
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
}

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

TEST_F(Graph, AGuardedExecutableLaunchedIntoACaptureBringsItsGuards) {
  CUgraphExec inner = instantiate(captured_writer());
  begin();
  EXPECT_EQ(AccessList{launched_reach(inner)}, kWholePoolRead);
  CUgraphExec exec = instantiate(end());
  EXPECT_TRUE(gate().pins.empty());
  EXPECT_EQ(AccessList{launched_reach(exec)}, kWholePoolRead);
}

TEST_F(Graph, APinnedExecutableLaunchedIntoACaptureLeavesItUnguarded) {
  CUgraph by_hand = empty_graph();
  add_kernel(by_hand, writer_, writer_arguments());
  CUgraphExec inner = instantiate(by_hand);
  begin();
  hook_cuGraphLaunch(inner, kStream);
  CUgraph graph = end();
  hook_cuGraphExecDestroy(inner);  // its pin must not be what the copy relies on
  EXPECT_TRUE(gate().pins.empty());
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, CapturesAreAnnouncedToTheGate) {
  begin();
  EXPECT_TRUE(any_capture());
  end();
  EXPECT_FALSE(any_capture());
  hook_cuStreamDestroy_v2(kStream);
  EXPECT_THAT(gate().calls,
              ::testing::ElementsAre("before capture", "after capture", "before stream destroy"));
}

TEST_F(Graph, AnInvalidatedCaptureLeavesNoRecordAtItsEnd) {
  begin();
  driver_table().cuStreamGetCaptureInfo_v2 = [](CUstream, CUstreamCaptureStatus* status,
                                                cuuint64_t*, CUgraph*, const CUgraphNode**,
                                                std::size_t*) {
    *status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    return CUDA_SUCCESS;
  };
  driver().next_result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  CUgraph graph = nullptr;
  EXPECT_EQ(hook_cuStreamEndCapture(kStream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_FALSE(any_capture());
  EXPECT_FALSE(graph_is_guarded(graph));
}

TEST_F(Graph, ACaptureEndedFromTheWrongThreadGoesOn) {
  begin();
  launch(writer_, writer_arguments(), 4, kStream);
  const auto real_end = driver_table().cuStreamEndCapture;
  driver_table().cuStreamEndCapture = [](CUstream, CUgraph*) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  };
  CUgraph none = nullptr;
  EXPECT_EQ(hook_cuStreamEndCapture(kStream, &none), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
  EXPECT_TRUE(any_capture());
  driver_table().cuStreamEndCapture = real_end;
  EXPECT_TRUE(graph_is_guarded(end()));
  EXPECT_FALSE(any_capture());
}

TEST_F(Graph, ADestroyedStreamTakesItsCaptureAlong) {
  begin();
  hook_cuStreamDestroy_v2(reinterpret_cast<CUstream>(0x5100));  // another one
  EXPECT_TRUE(any_capture());
  hook_cuStreamDestroy_v2(kStream);
  EXPECT_FALSE(any_capture());
}

TEST_F(Graph, ADestroyedContextTakesAllCapturesAlong) {
  begin();
  begin(reinterpret_cast<CUstream>(0x5100));
  hook_cuCtxDestroy_v2(reinterpret_cast<CUcontext>(0xc123));
  EXPECT_FALSE(any_capture());
  CUgraph graph = end();
  EXPECT_FALSE(graph_is_guarded(graph));
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

TEST_F(Graph, AForkedChildStartsWithoutRecords) {
  CUgraph graph = captured_writer();
  CUgraphExec exec = instantiate(graph);
  begin();
  const FunctionInfo* info = find_function(unknown_);
  const pid_t child = fork();
  if (child == 0) {
    abandon_launch_state_after_fork();
    const bool fresh = !any_capture() && !graph_is_guarded(graph) && launched_reach(exec).empty() &&
                       find_function(unknown_) != info;
    _exit(fresh ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(any_capture());
}

}  // namespace
}  // namespace kvshim::preload::testing
