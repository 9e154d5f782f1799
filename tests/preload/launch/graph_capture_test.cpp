// Captured graphs: which bring their guards, and how long a capture is known.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

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

TEST_F(Graph, ARemovedEdgeMakesACapturedGraphManual) {
  driver_table().cuGraphRemoveDependencies = [](CUgraph, const CUgraphNode*, const CUgraphNode*,
                                                size_t) { return CUDA_SUCCESS; };
  CUgraph graph = captured_writer();
  hook_cuGraphRemoveDependencies(graph, nullptr, nullptr, 0);
  instantiate(graph);
  EXPECT_EQ(AccessList{pinned()}, kWholePoolWritten);
}

TEST_F(Graph, AnEditedChildMakesItsParentManual) {
  CUgraph graph = captured_writer();
  static CUgraph child;
  child = empty_graph();
  driver_table().cuGraphChildGraphNodeGetGraph = [](CUgraphNode, CUgraph* out) {
    *out = child;
    return CUDA_SUCCESS;
  };
  add_kernel(empty_graph(), writer_, writer_arguments());
  EXPECT_TRUE(graph_is_guarded(graph)) << "another graph";
  CUgraph inside = nullptr;
  ASSERT_EQ(hook_cuGraphChildGraphNodeGetGraph(nullptr, &inside), CUDA_SUCCESS);
  EXPECT_TRUE(graph_is_guarded(graph)) << "looking is no edit";
  add_kernel(inside, writer_, writer_arguments());
  EXPECT_FALSE(graph_is_guarded(graph));
}

TEST_F(Graph, ReplacedDependenciesMakeACaptureManual) {
  driver_table().cuStreamUpdateCaptureDependencies = [](CUstream, CUgraphNode*, size_t,
                                                        unsigned int) { return CUDA_SUCCESS; };
  for (const bool replaced : {false, true}) {
    begin();
    launch(writer_, writer_arguments(), 4, kStream);
    hook_cuStreamUpdateCaptureDependencies(
        kStream, nullptr, 0,
        replaced ? CU_STREAM_SET_CAPTURE_DEPENDENCIES : CU_STREAM_ADD_CAPTURE_DEPENDENCIES);
    EXPECT_NE(graph_is_guarded(end()), replaced);
  }
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

TEST_F(Graph, ADestroyedContextLeavesTheCapturesOfOthers) {
  driver_table().cuStreamGetCtx = [](CUstream stream, CUcontext* context) {
    *context = reinterpret_cast<CUcontext>(stream == kStream ? 0xc123 : 0xc456);
    return CUDA_SUCCESS;
  };
  const auto other = reinterpret_cast<CUstream>(0x5100);
  begin();
  begin(other);
  hook_cuCtxDestroy_v2(reinterpret_cast<CUcontext>(0xc123));
  EXPECT_TRUE(any_capture());
  launch(writer_, writer_arguments(), 4, other);
  EXPECT_TRUE(graph_is_guarded(end(other)));
  EXPECT_FALSE(any_capture());
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
