// Graphs built node by node, read back, changed and launched.
#include <chrono>
#include <numeric>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class GraphsTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    to_ = allocate(4096);
    stream_ = make_stream();
    digits_ = kernel("kvshim_test_times_ten_plus");
    ASSERT_DONE(cuGraphCreate(&graph_, 0));
    ASSERT_DONE(cuCtxSynchronize());
  }
  void TearDown() override {
    if (executable_ != nullptr) {
      EXPECT_DONE(cuGraphExecDestroy(executable_));
    }
    EXPECT_DONE(cuGraphDestroy(graph_));
    EXPECT_DONE(cuStreamDestroy(stream_));
    EXPECT_DONE(cuMemFree(to_));
    GpuTest::TearDown();
  }

  CUDA_KERNEL_NODE_PARAMS digit(unsigned* value) {
    pointers_[0] = &to_;
    pointers_[1] = value;
    CUDA_KERNEL_NODE_PARAMS params{};
    params.func = digits_;
    params.gridDimX = params.gridDimY = params.gridDimZ = 1;
    params.blockDimX = 32;
    params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = pointers_;
    return params;
  }
  CUgraphNode add_digit(unsigned value, const std::vector<CUgraphNode>& after = {}) {
    const CUDA_KERNEL_NODE_PARAMS params = digit(&value);
    CUgraphNode node = nullptr;
    EXPECT_DONE(cuGraphAddKernelNode(&node, graph_, after.data(), after.size(), &params));
    return node;
  }
  void instantiate() { ASSERT_DONE(cuGraphInstantiateWithFlags(&executable_, graph_, 0)); }
  unsigned run() {
    EXPECT_DONE(cuMemsetD32Async(to_, 0, 1, stream_));
    EXPECT_DONE(cuGraphLaunch(executable_, stream_));
    EXPECT_DONE(cuStreamSynchronize(stream_));
    return read_word(to_);
  }

  CUdeviceptr to_ = 0;
  CUstream stream_ = nullptr;
  CUfunction digits_ = nullptr;
  CUgraph graph_ = nullptr;
  CUgraphExec executable_ = nullptr;
  void* pointers_[2] = {};
};

TEST_F(GraphsTest, NodesRunAfterTheirDependencies) {
  CUgraphNode third = add_digit(3);
  CUgraphNode second = add_digit(2);
  CUgraphNode first = add_digit(1);
  ASSERT_DONE(cuGraphAddDependencies(graph_, &first, &second, nullptr, 1));
  ASSERT_DONE(cuGraphAddDependencies(graph_, &second, &third, nullptr, 1));
  instantiate();
  EXPECT_EQ(123u, run());
}

TEST_F(GraphsTest, ACircleIsFoundAtInstantiation) {
  CUgraphNode first = add_digit(1);
  CUgraphNode second = add_digit(2, {first});
  ASSERT_DONE(cuGraphAddDependencies(graph_, &second, &first, nullptr, 1));
  CUgraphExec executable = nullptr;
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&executable, graph_, 0));
}

TEST_F(GraphsTest, KernelNodesGiveTheirParametersBack) {
  CUgraphNode node = add_digit(7);
  CUDA_KERNEL_NODE_PARAMS params{};
  ASSERT_DONE(cuGraphKernelNodeGetParams(node, &params));
  EXPECT_EQ(digits_, params.func);
  EXPECT_EQ(nullptr, params.kern);
  EXPECT_EQ(nullptr, params.extra);
  EXPECT_EQ(32u, params.blockDimX);
  ASSERT_NE(nullptr, params.kernelParams);
  EXPECT_EQ(to_, *static_cast<CUdeviceptr*>(params.kernelParams[0]));
  EXPECT_EQ(7u, *static_cast<unsigned*>(params.kernelParams[1]));
}

TEST_F(GraphsTest, FormsOfALaunchShowInItsNode) {
  CUlibrary library = nullptr;
  CUkernel as_kernel = nullptr;
  ASSERT_DONE(cuLibraryLoadData(&library, kvshim_ptx_test_kernels, nullptr, nullptr, 0, nullptr,
                                nullptr, 0));
  ASSERT_DONE(cuLibraryGetKernel(&as_kernel, library, "kvshim_test_times_ten_plus"));
  struct {
    CUdeviceptr to;
    unsigned value;
  } buffer{to_, 4};
  std::size_t bytes = 12;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                   CU_LAUNCH_PARAM_END};
  CUgraph captured = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(stream_, CU_STREAM_CAPTURE_MODE_RELAXED));
  ASSERT_DONE(cuLaunchKernel(digits_, 1, 1, 1, 1, 1, 1, 0, stream_, nullptr, extra));
  ASSERT_DONE(launch(reinterpret_cast<CUfunction>(as_kernel), stream_, to_, 2u));
  ASSERT_DONE(cuStreamEndCapture(stream_, &captured));
  CUgraphNode nodes[2] = {};
  std::size_t count = 2;
  ASSERT_DONE(cuGraphGetNodes(captured, nodes, &count));
  ASSERT_EQ(2u, count);
  CUDA_KERNEL_NODE_PARAMS params{};
  ASSERT_DONE(cuGraphKernelNodeGetParams(nodes[0], &params));
  EXPECT_EQ(nullptr, params.kernelParams);
  EXPECT_NE(nullptr, params.extra);
  ASSERT_DONE(cuGraphKernelNodeGetParams(nodes[1], &params));
  EXPECT_EQ(as_kernel, params.kern);
  EXPECT_NE(nullptr, params.func);
  EXPECT_NE(reinterpret_cast<CUfunction>(as_kernel), params.func);
  EXPECT_DONE(cuGraphInstantiateWithFlags(&executable_, captured, 0));
  EXPECT_EQ(42u, run());
  EXPECT_DONE(cuGraphDestroy(captured));
}

TEST_F(GraphsTest, FillsCopiesAndHostFunctionsAreNodes) {
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = to_ + 64;
  fill.value = 9;
  fill.elementSize = 4;
  fill.width = 2;
  fill.height = 1;
  CUgraphNode filled = nullptr, copied = nullptr, called = nullptr, empty = nullptr;
  ASSERT_DONE(cuGraphAddMemsetNode(&filled, graph_, nullptr, 0, &fill, context_));
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = to_ + 64;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = to_;
  copy.WidthInBytes = 4;
  copy.Height = 1;
  copy.Depth = 1;
  ASSERT_DONE(cuGraphAddMemcpyNode(&copied, graph_, &filled, 1, &copy, context_));
  int seen = 0;
  CUDA_HOST_NODE_PARAMS host{};
  host.fn = [](void* data) { ++*static_cast<int*>(data); };
  host.userData = &seen;
  ASSERT_DONE(cuGraphAddHostNode(&called, graph_, &copied, 1, &host));
  ASSERT_DONE(cuGraphAddEmptyNode(&empty, graph_, &called, 1));
  CUDA_MEMSET_NODE_PARAMS read_back{};
  ASSERT_DONE(cuGraphMemsetNodeGetParams(filled, &read_back));
  EXPECT_EQ(fill.dst, read_back.dst);
  instantiate();
  EXPECT_EQ(9u, run());
  EXPECT_EQ(1, seen);
}

TEST_F(GraphsTest, ExecutablesTakeNewParameters) {
  CUgraphNode node = add_digit(1);
  instantiate();
  EXPECT_EQ(1u, run());
  unsigned value = 8;
  const CUDA_KERNEL_NODE_PARAMS params = digit(&value);
  ASSERT_DONE(cuGraphExecKernelNodeSetParams(executable_, node, &params));
  EXPECT_EQ(8u, run());
  CUDA_KERNEL_NODE_PARAMS of_graph{};
  ASSERT_DONE(cuGraphKernelNodeGetParams(node, &of_graph));
  EXPECT_EQ(1u, *static_cast<unsigned*>(of_graph.kernelParams[1])) << "the graph keeps its own";
}

TEST_F(GraphsTest, ChangesDoNotReachALaunchUnderWay) {
  CUgraphNode node = add_digit(1);
  instantiate();
  {
    BusyStream busy(kernel("kvshim_test_spin"), stream_);
    ASSERT_DONE(cuGraphLaunch(executable_, stream_));
    unsigned value = 2;
    const CUDA_KERNEL_NODE_PARAMS params = digit(&value);
    ASSERT_DONE(cuGraphExecKernelNodeSetParams(executable_, node, &params));
    ASSERT_DONE(cuGraphLaunch(executable_, stream_));
    busy.open();
    ASSERT_DONE(cuStreamSynchronize(stream_));
  }
  EXPECT_EQ(12u, read_word(to_));
}

TEST_F(GraphsTest, UpdatesTakeTheSameTopologyOnly) {
  CUgraphNode first = add_digit(1);
  add_digit(2, {first});
  instantiate();
  EXPECT_EQ(12u, run());
  CUgraph same = nullptr;
  ASSERT_DONE(cuGraphClone(&same, graph_));
  CUgraphNode twin = nullptr;
  ASSERT_DONE(cuGraphNodeFindInClone(&twin, first, same));
  unsigned value = 6;
  const CUDA_KERNEL_NODE_PARAMS params = digit(&value);
  ASSERT_DONE(cuGraphKernelNodeSetParams(twin, &params));
  CUgraphExecUpdateResultInfo info{};
  ASSERT_DONE(cuGraphExecUpdate(executable_, same, &info));
  EXPECT_EQ(CU_GRAPH_EXEC_UPDATE_SUCCESS, info.result);
  EXPECT_EQ(62u, run());
  ASSERT_DONE(cuGraphDestroyNode(twin));
  EXPECT_RESULT(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate(executable_, same, &info));
  EXPECT_EQ(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, info.result);
  EXPECT_EQ(62u, run()) << "unchanged";
  EXPECT_DONE(cuGraphDestroy(same));
}

TEST_F(GraphsTest, ChildGraphsRunInTheirPlace) {
  CUgraph child = nullptr;
  ASSERT_DONE(cuGraphCreate(&child, 0));
  unsigned value = 5;
  const CUDA_KERNEL_NODE_PARAMS params = digit(&value);
  CUgraphNode inner = nullptr, node = nullptr;
  ASSERT_DONE(cuGraphAddKernelNode(&inner, child, nullptr, 0, &params));
  CUgraphNode first = add_digit(4);
  ASSERT_DONE(cuGraphAddChildGraphNode(&node, graph_, &first, 1, child));
  ASSERT_DONE(cuGraphDestroy(child));
  add_digit(6, {node});
  CUgraph inside = nullptr;
  ASSERT_DONE(cuGraphChildGraphNodeGetGraph(node, &inside));
  std::size_t count = 0;
  ASSERT_DONE(cuGraphGetNodes(inside, nullptr, &count));
  EXPECT_EQ(1u, count);
  instantiate();
  EXPECT_EQ(456u, run());
}

TEST_F(GraphsTest, EventsOfGraphsOrderOtherStreams) {
  CUevent event = nullptr;
  ASSERT_DONE(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  CUgraphNode first = add_digit(1);
  CUgraphNode record = nullptr;
  ASSERT_DONE(cuGraphAddEventRecordNode(&record, graph_, &first, 1, event));
  instantiate();
  CUstream other = make_stream();
  {
    BusyStream busy(kernel("kvshim_test_spin"), stream_);
    ASSERT_DONE(cuGraphLaunch(executable_, stream_));
    ASSERT_DONE(cuStreamWaitEvent(other, event, 0));
    ASSERT_DONE(launch(digits_, other, to_, 2u));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(other));
    busy.open();
    ASSERT_DONE(cuStreamSynchronize(other));
  }
  EXPECT_EQ(12u, read_word(to_));
  EXPECT_DONE(cuStreamDestroy(other));
  EXPECT_DONE(cuEventDestroy(event));
}

TEST_F(GraphsTest, DisabledNodesAreLeftOut) {
  CUgraphNode first = add_digit(1);
  add_digit(2, {first});
  instantiate();
  ASSERT_DONE(cuGraphNodeSetEnabled(executable_, first, 0));
  EXPECT_EQ(2u, run());
  ASSERT_DONE(cuGraphNodeSetEnabled(executable_, first, 1));
  EXPECT_EQ(12u, run());
}

TEST_F(GraphsTest, EveryFormOfInstantiationGivesAnExecutable) {
  add_digit(3);
  CUDA_GRAPH_INSTANTIATE_PARAMS params{};
  ASSERT_DONE(cuGraphInstantiateWithParams(&executable_, graph_, &params));
  EXPECT_EQ(CUDA_GRAPH_INSTANTIATE_SUCCESS, params.result_out);
  EXPECT_EQ(3u, run());
  ASSERT_DONE(cuGraphUpload(executable_, stream_));
}

TEST_F(GraphsTest, AnExecutableMayBeDestroyedWhileItRuns) {
  add_digit(3);
  instantiate();
  {
    BusyStream busy(kernel("kvshim_test_spin"), stream_);
    ASSERT_DONE(cuGraphLaunch(executable_, stream_));
    ASSERT_DONE(cuGraphExecDestroy(executable_));
    executable_ = nullptr;
    busy.open();
    ASSERT_DONE(cuStreamSynchronize(stream_));
  }
  EXPECT_EQ(3u, read_word(to_));
}

TEST_F(GraphsTest, UserObjectsLiveAsLongAsTheGraphsThatHoldThem) {
  int destroyed = 0;
  CUuserObject object = nullptr;
  ASSERT_DONE(cuUserObjectCreate(
      &object, &destroyed, [](void* data) { ++*static_cast<int*>(data); }, 1,
      CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
  CUgraph holder = nullptr;
  ASSERT_DONE(cuGraphCreate(&holder, 0));
  ASSERT_DONE(cuGraphRetainUserObject(holder, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
  ASSERT_DONE(cuGraphInstantiateWithFlags(&executable_, holder, 0));
  ASSERT_DONE(cuGraphDestroy(holder));
  EXPECT_EQ(0, destroyed) << "the executable holds it";
  ASSERT_DONE(cuGraphExecDestroy(executable_));
  executable_ = nullptr;
  ASSERT_DONE(cuCtxSynchronize());
  for (int i = 0; i < 100 && __atomic_load_n(&destroyed, __ATOMIC_SEQ_CST) == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(1, destroyed);
}

TEST_F(GraphsTest, ReplaysOverPagesThatWereExchanged) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1));
  CUgraph captured = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_DONE(launch(digits_, stream_, space.at(0), 4u));
  ASSERT_DONE(cuStreamEndCapture(stream_, &captured));
  ASSERT_DONE(cuGraphInstantiateWithFlags(&executable_, captured, 0));
  ASSERT_DONE(cuGraphLaunch(executable_, stream_));
  ASSERT_DONE(cuStreamSynchronize(stream_));
  ASSERT_DONE(space.unmap(0, 1));
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1));
  ASSERT_DONE(cuGraphLaunch(executable_, stream_));
  ASSERT_DONE(cuStreamSynchronize(stream_));
  EXPECT_EQ(4u, read_word(space.at(0)));
  EXPECT_DONE(cuGraphDestroy(captured));
}

}  // namespace
}  // namespace kvshim::simulator
