// The rules of stream capture as measured on driver 580 (semantics_probe): for
// each call, in each mode, from the capturing thread and from another one,
// what it answers and whether the capture survives.
#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

struct Outcome {
  CUresult result = CUDA_SUCCESS;
  bool invalidated = false;
};

class CaptureTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    capturing_ = make_stream();
    other_ = make_stream();
    to_ = allocate(4096);
    ASSERT_DONE(cuEventCreate(&event_, CU_EVENT_DISABLE_TIMING));
    digits_ = kernel("kvshim_test_times_ten_plus");
    ASSERT_DONE(cuCtxSynchronize());
  }
  void TearDown() override {
    EXPECT_DONE(cuStreamDestroy(capturing_));
    EXPECT_DONE(cuStreamDestroy(other_));
    EXPECT_DONE(cuEventDestroy(event_));
    EXPECT_DONE(cuMemFree(to_));
    GpuTest::TearDown();
  }

  /// Makes the call while `capturing_` captures; ends the capture.
  Outcome call_during_capture(CUstreamCaptureMode mode, bool other_thread,
                              const std::function<CUresult()>& call) {
    Outcome outcome;
    EXPECT_DONE(cuStreamBeginCapture(capturing_, mode));
    EXPECT_DONE(launch(digits_, capturing_, to_, 1u));
    if (other_thread) {
      std::thread([&] {
        cuCtxSetCurrent(context_);
        outcome.result = call();
      }).join();
    } else {
      outcome.result = call();
    }
    CUgraph graph = nullptr;
    const CUresult end = cuStreamEndCapture(capturing_, &graph);
    outcome.invalidated = end == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!outcome.invalidated) {
      EXPECT_DONE(end);
      EXPECT_DONE(cuGraphDestroy(graph));
    }
    return outcome;
  }

  /// `where_refused`: the columns of the measured table, "Gs Go Ts To Rs Ro"
  /// (global, thread-local, relaxed; same thread, other thread) in which the
  /// call is refused and the capture lost.
  void expect_refused(const std::string& where_refused, const std::function<CUresult()>& call) {
    const struct {
      const char* column;
      CUstreamCaptureMode mode;
      bool other;
    } columns[] = {{"Gs", CU_STREAM_CAPTURE_MODE_GLOBAL, false},
                   {"Go", CU_STREAM_CAPTURE_MODE_GLOBAL, true},
                   {"Ts", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, false},
                   {"To", CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, true},
                   {"Rs", CU_STREAM_CAPTURE_MODE_RELAXED, false},
                   {"Ro", CU_STREAM_CAPTURE_MODE_RELAXED, true}};
    for (const auto& column : columns) {
      SCOPED_TRACE(column.column);
      const bool refused = where_refused.find(column.column) != std::string::npos;
      const Outcome outcome = call_during_capture(column.mode, column.other, call);
      EXPECT_RESULT(refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS, outcome.result);
      EXPECT_EQ(refused, outcome.invalidated);
    }
  }

  static constexpr char kNowhere[] = "";
  static constexpr char kUnlessRelaxed[] = "Gs Go Ts";
  static constexpr char kEverywhere[] = "Gs Go Ts To Rs Ro";

  CUstream capturing_ = nullptr, other_ = nullptr;
  CUevent event_ = nullptr;
  CUdeviceptr to_ = 0;
  CUfunction digits_ = nullptr;
};

TEST_F(CaptureTest, VirtualMemoryCallsAreLegal) {
  expect_refused(kNowhere, [] {
    CUdeviceptr base = 0;
    const CUresult result = cuMemAddressReserve(&base, kGranule, 0, 0, 0);
    if (result == CUDA_SUCCESS) cuMemAddressFree(base, kGranule);
    return result;
  });
  expect_refused(kNowhere, [] {
    MappedSpace space(1);
    CUresult result = space.map(0, 1, space.make(1));
    if (result == CUDA_SUCCESS) result = space.access(0, 1);
    if (result == CUDA_SUCCESS) result = space.unmap(0, 1);
    return result;
  });
}

TEST_F(CaptureTest, AllocatingAndFreeingDisturb) {
  expect_refused(kUnlessRelaxed, [] {
    CUdeviceptr address = 0;
    const CUresult result = cuMemAlloc(&address, 4096);
    if (result == CUDA_SUCCESS) cuMemFree(address);
    return result;
  });
  for (const char* column : {"Gs", "Rs"}) {
    SCOPED_TRACE(column);
    CUdeviceptr address = 0;
    ASSERT_DONE(cuMemAlloc(&address, 4096));
    const bool relaxed = column[0] == 'R';
    const Outcome outcome = call_during_capture(
        relaxed ? CU_STREAM_CAPTURE_MODE_RELAXED : CU_STREAM_CAPTURE_MODE_GLOBAL, false,
        [&] { return cuMemFree(address); });
    EXPECT_RESULT(relaxed ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, outcome.result);
    EXPECT_EQ(!relaxed, outcome.invalidated);
    if (!relaxed) {
      EXPECT_DONE(cuMemFree(address));
    }
  }
  expect_refused(kUnlessRelaxed, [] {
    void* host = nullptr;
    const CUresult result = cuMemHostAlloc(&host, 4096, 0);
    if (result == CUDA_SUCCESS) cuMemFreeHost(host);
    return result;
  });
}

TEST_F(CaptureTest, QueriesAboutMemoryAreLegal) {
  expect_refused(kNowhere, [] {
    std::size_t free_bytes = 0, total = 0;
    return cuMemGetInfo(&free_bytes, &total);
  });
  expect_refused(kNowhere, [&] {
    unsigned type = 0;
    return cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, to_);
  });
}

TEST_F(CaptureTest, WaitingForTheContextDisturbsInEveryMode) {
  expect_refused(kEverywhere, [] { return cuCtxSynchronize(); });
}

TEST_F(CaptureTest, WaitingForAnotherStreamDisturbs) {
  expect_refused(kUnlessRelaxed, [&] { return cuStreamSynchronize(other_); });
  expect_refused(kUnlessRelaxed, [&] { return cuStreamQuery(other_); });
  expect_refused(kUnlessRelaxed, [] { return cuStreamSynchronize(nullptr); });
}

TEST_F(CaptureTest, WaitingForTheCapturingStreamDisturbsInEveryMode) {
  expect_refused(kEverywhere, [&] { return cuStreamSynchronize(capturing_); });
  expect_refused(kEverywhere, [&] { return cuStreamQuery(capturing_); });
}

TEST_F(CaptureTest, WaitingForEventsDisturbs) {
  expect_refused(kUnlessRelaxed, [&] { return cuEventQuery(event_); });
  expect_refused(kUnlessRelaxed, [&] { return cuEventSynchronize(event_); });
}

TEST_F(CaptureTest, MakingEventsAndStreamsIsLegal) {
  expect_refused(kNowhere, [] {
    CUevent event = nullptr;
    const CUresult result = cuEventCreate(&event, 0);
    if (result == CUDA_SUCCESS) cuEventDestroy(event);
    return result;
  });
  expect_refused(kNowhere, [&] { return cuEventRecord(event_, other_); });
  expect_refused(kNowhere, [] {
    CUstream stream = nullptr;
    const CUresult result = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING);
    if (result == CUDA_SUCCESS) cuStreamDestroy(stream);
    return result;
  });
}

TEST_F(CaptureTest, WorkElsewhereIsLegal) {
  const CUdeviceptr buffer = allocate(4096);
  ASSERT_DONE(cuCtxSynchronize());
  expect_refused(kNowhere, [&] {
    unsigned value = 0;
    return cuMemcpyDtoH(&value, buffer, 4);
  });
  expect_refused(kNowhere, [&] { return cuMemsetD8(buffer, 1, 4); });
  expect_refused(kNowhere, [&] { return cuMemsetD8Async(buffer, 1, 4, other_); });
  expect_refused(kNowhere, [&] { return cuMemsetD8Async(buffer, 1, 4, nullptr); });
  expect_refused(kNowhere, [&] {
    return cuLaunchHostFunc(
        other_, [](void*) {}, nullptr);
  });
  std::vector<CUmodule> modules;
  expect_refused(kNowhere, [&] {
    modules.push_back(nullptr);
    return cuModuleLoadData(&modules.back(), kvshim_ptx_test_kernels);
  });
  for (CUmodule module : modules) EXPECT_DONE(cuModuleUnload(module));
  EXPECT_DONE(cuMemFree(buffer));
}

TEST_F(CaptureTest, UnloadingCodeDisturbs) {
  CUmodule module = nullptr;
  ASSERT_DONE(cuModuleLoadData(&module, kvshim_ptx_test_kernels));
  const Outcome outcome = call_during_capture(CU_STREAM_CAPTURE_MODE_GLOBAL, false,
                                              [&] { return cuModuleUnload(module); });
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, outcome.result);
  EXPECT_TRUE(outcome.invalidated);
  EXPECT_DONE(cuModuleUnload(module));
}

TEST_F(CaptureTest, CapturedFillsAreLookedAtWhenTheirGraphIsInstantiated) {
  MappedSpace space(2);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1, CU_MEM_ACCESS_FLAGS_PROT_READ));
  for (const std::size_t granule : {std::size_t{0}, std::size_t{1}}) {
    SCOPED_TRACE(granule == 0 ? "read-only" : "a hole");
    CUgraph graph = nullptr;
    CUgraphExec executable = nullptr;
    ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_RELAXED));
    EXPECT_DONE(cuMemsetD8Async(space.at(granule), 1, 4096, capturing_));
    ASSERT_DONE(cuStreamEndCapture(capturing_, &graph));
    EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&executable, graph, 0));
    EXPECT_DONE(cuGraphDestroy(graph));
  }
}

TEST_F(CaptureTest, CapturedCopiesIntoAHoleAreRefusedAtTheCall) {
  MappedSpace space(1);
  void* pinned = nullptr;
  ASSERT_DONE(cuMemHostAlloc(&pinned, 4096, 0));
  const auto copies = [&] {
    return std::vector<CUresult>{cuMemcpyHtoDAsync(space.at(0), pinned, 4096, capturing_),
                                 cuMemcpyDtoDAsync(space.at(0), to_, 4096, capturing_)};
  };
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_RELAXED));
  for (const CUresult result : copies()) EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, result);
  EXPECT_DONE(cuStreamEndCapture(capturing_, &graph)) << "the capture stays valid";
  EXPECT_DONE(cuGraphDestroy(graph));
  EXPECT_DONE(cuMemFreeHost(pinned));
}

TEST_F(CaptureTest, AskingForACapturedEventEndsTheCapture) {
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_RELAXED));
  ASSERT_DONE(cuEventRecord(event_, capturing_));
  EXPECT_RESULT(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event_));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(capturing_, &graph));
}

TEST_F(CaptureTest, ARelaxedThreadMayDoHousekeeping) {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  ASSERT_DONE(cuThreadExchangeStreamCaptureMode(&mode));
  EXPECT_EQ(CU_STREAM_CAPTURE_MODE_GLOBAL, mode);
  const auto in_global = [&](const std::function<CUresult()>& call) {
    return call_during_capture(CU_STREAM_CAPTURE_MODE_GLOBAL, false, call);
  };
  Outcome outcome = in_global([&] { return cuStreamSynchronize(other_); });
  EXPECT_DONE(outcome.result);
  EXPECT_FALSE(outcome.invalidated);
  outcome = in_global([] {
    CUdeviceptr address = 0;
    const CUresult result = cuMemAlloc(&address, 4096);
    if (result == CUDA_SUCCESS) cuMemFree(address);
    return result;
  });
  EXPECT_DONE(outcome.result);
  EXPECT_FALSE(outcome.invalidated);
  outcome = in_global([] { return cuCtxSynchronize(); });
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, outcome.result);
  EXPECT_TRUE(outcome.invalidated);
  ASSERT_DONE(cuThreadExchangeStreamCaptureMode(&mode));
}

TEST_F(CaptureTest, CapturedWorkDoesNotRun) {
  ASSERT_DONE(cuMemsetD32(to_, 0, 1));
  ASSERT_DONE(cuCtxSynchronize());
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_DONE(launch(digits_, capturing_, to_, 5u));
  ASSERT_DONE(cuStreamEndCapture(capturing_, &graph));
  EXPECT_EQ(0u, read_word(to_));
  CUgraphExec executable = nullptr;
  ASSERT_DONE(cuGraphInstantiateWithFlags(&executable, graph, 0));
  ASSERT_DONE(cuGraphLaunch(executable, capturing_));
  ASSERT_DONE(cuGraphLaunch(executable, capturing_));
  ASSERT_DONE(cuStreamSynchronize(capturing_));
  EXPECT_EQ(55u, read_word(to_));
  EXPECT_DONE(cuGraphExecDestroy(executable));
  EXPECT_DONE(cuGraphDestroy(graph));
}

TEST_F(CaptureTest, EventsCarryTheCaptureToOtherStreamsAndBack) {
  ASSERT_DONE(cuMemsetD32(to_, 0, 1));
  ASSERT_DONE(cuCtxSynchronize());
  CUevent back = nullptr;
  ASSERT_DONE(cuEventCreate(&back, CU_EVENT_DISABLE_TIMING));
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_DONE(launch(digits_, capturing_, to_, 1u));
  ASSERT_DONE(cuEventRecord(event_, capturing_));
  ASSERT_DONE(cuStreamWaitEvent(other_, event_, 0));
  CUstreamCaptureStatus status{};
  ASSERT_DONE(cuStreamIsCapturing(other_, &status));
  EXPECT_EQ(CU_STREAM_CAPTURE_STATUS_ACTIVE, status);
  ASSERT_DONE(launch(digits_, other_, to_, 2u));
  ASSERT_DONE(cuEventRecord(back, other_));
  ASSERT_DONE(cuStreamWaitEvent(capturing_, back, 0));
  ASSERT_DONE(launch(digits_, capturing_, to_, 3u));
  ASSERT_DONE(cuStreamEndCapture(capturing_, &graph));
  ASSERT_DONE(cuStreamIsCapturing(other_, &status));
  EXPECT_EQ(CU_STREAM_CAPTURE_STATUS_NONE, status);
  std::size_t nodes = 0;
  ASSERT_DONE(cuGraphGetNodes(graph, nullptr, &nodes));
  EXPECT_EQ(3u, nodes);
  CUgraphExec executable = nullptr;
  ASSERT_DONE(cuGraphInstantiateWithFlags(&executable, graph, 0));
  ASSERT_DONE(cuGraphLaunch(executable, capturing_));
  ASSERT_DONE(cuStreamSynchronize(capturing_));
  EXPECT_EQ(123u, read_word(to_));
  EXPECT_DONE(cuGraphExecDestroy(executable));
  EXPECT_DONE(cuGraphDestroy(graph));
  EXPECT_DONE(cuEventDestroy(back));
}

TEST_F(CaptureTest, AStreamNotJoinedBackIsAnError) {
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_DONE(launch(digits_, capturing_, to_, 1u));
  ASSERT_DONE(cuEventRecord(event_, capturing_));
  ASSERT_DONE(cuStreamWaitEvent(other_, event_, 0));
  ASSERT_DONE(launch(digits_, other_, to_, 2u));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(capturing_, &graph));
  EXPECT_EQ(nullptr, graph);
}

TEST_F(CaptureTest, AnEventFromOutsideIsRefused) {
  CUgraph graph = nullptr;
  ASSERT_DONE(cuEventRecord(event_, other_));
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_RELAXED));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(capturing_, event_, 0));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(capturing_, &graph));
}

TEST_F(CaptureTest, TheLegacyStreamAndABlockingCaptureExcludeEachOther) {
  CUstream blocking = make_stream(CU_STREAM_DEFAULT);
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD8Async(to_, 1, 4, nullptr));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(blocking, &graph));
  EXPECT_DONE(cuStreamDestroy(blocking));
  EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_RELAXED));
}

TEST_F(CaptureTest, EndingOnAnotherThreadNeedsTheRelaxedMode) {
  CUgraph graph = nullptr;
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  std::thread([&] {
    cuCtxSetCurrent(context_);
    EXPECT_RESULT(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, cuStreamEndCapture(capturing_, &graph));
  }).join();
  EXPECT_RESULT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(capturing_, &graph))
      << "the attempt ended it";
}

TEST_F(CaptureTest, EndingWithoutBeginningIsAnError) {
  CUgraph graph = nullptr;
  EXPECT_RESULT(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(capturing_, &graph));
}

TEST_F(CaptureTest, TellsItsIdAndDependencies) {
  ASSERT_DONE(cuStreamBeginCapture(capturing_, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_DONE(launch(digits_, capturing_, to_, 1u));
  CUstreamCaptureStatus status{};
  cuuint64_t id = 0;
  CUgraph graph = nullptr;
  const CUgraphNode* dependencies = nullptr;
  const CUgraphEdgeData* edges = nullptr;
  std::size_t count = 0;
  ASSERT_DONE(
      cuStreamGetCaptureInfo(capturing_, &status, &id, &graph, &dependencies, &edges, &count));
  EXPECT_EQ(CU_STREAM_CAPTURE_STATUS_ACTIVE, status);
  EXPECT_NE(0u, id);
  ASSERT_EQ(1u, count);
  CUgraphNodeType type{};
  EXPECT_DONE(cuGraphNodeGetType(dependencies[0], &type));
  EXPECT_EQ(CU_GRAPH_NODE_TYPE_KERNEL, type);
  CUgraph ended = nullptr;
  ASSERT_DONE(cuStreamEndCapture(capturing_, &ended));
  EXPECT_EQ(graph, ended);
  EXPECT_DONE(cuGraphDestroy(ended));
}

}  // namespace
}  // namespace kvshim::simulator
