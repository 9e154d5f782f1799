// A stream with pool work is made to wait for what another stream's thread does only
// after pool work of its own, which may not have to wait in turn.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

constexpr auto kDeadline = 10s;
// After so many alone its submissions are not followed by events any more.
constexpr int kAlone = 70;

class WaitingStream : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    for (CUstream* one : {&other_, &third_, &writer_}) {
      ASSERT_EQ(cuStreamCreate(one, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    }
  }
  void TearDown() override {
    open();
    if (context_ != nullptr) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      for (CUstream one : {other_, third_, writer_}) cuStreamDestroy_v2(one);
    }
    PoolTest::TearDown();
  }

  // As an engine's only stream.
  void work_alone(CUstream stream) {
    for (int i = 0; i < kAlone; ++i) {
      ASSERT_EQ(cuMemsetD8Async(pool_, 1, kMiB, stream), CUDA_SUCCESS);
    }
  }
  // Whether the stream gets to its end without any help.
  static bool finishes(CUstream stream) {
    const auto end = std::chrono::steady_clock::now() + kDeadline;
    while (cuStreamQuery(stream) == CUDA_ERROR_NOT_READY) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(1ms);
    }
    return cuStreamQuery(stream) == CUDA_SUCCESS;
  }
  // `waits` makes a stream wait for open(). Pool work of another one doesn't wait for it.
  void expect_no_hang(CUstream alone, const std::function<void()>& waits) {
    work_alone(alone);
    waits();
    ASSERT_FALSE(HasFatalFailure());
    ASSERT_EQ(cuMemsetD8Async(pool_, 7, kMiB, other_), CUDA_SUCCESS);
    EXPECT_TRUE(finishes(other_)) << "it waits for what would come after it";
    EXPECT_EQ(cuStreamQuery(alone), CUDA_ERROR_NOT_READY) << "nothing was waited for";
    open();
    EXPECT_TRUE(finishes(alone));
    EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 7));
  }
  void expect_no_hang(const std::function<void()>& waits) { expect_no_hang(stream_, waits); }

  void open() {
    open_.store(true);
    if (writer_ != nullptr && plain_ != 0) {
      EXPECT_EQ(cuStreamWriteValue64_v2(writer_, word(), 1, 0), CUDA_SUCCESS);
    }
  }
  CUdeviceptr word() const { return plain_ + 4096; }
  static void CUDA_CB until_open(void* open) {
    while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::sleep_for(1ms);
  }
  static void CUDA_CB until_open_callback(CUstream, CUresult, void* open) { until_open(open); }
  void block(CUstream stream) {
    ASSERT_EQ(cuLaunchHostFunc(stream, until_open, &open_), CUDA_SUCCESS);
  }
  void launch(CUgraph graph, CUstream stream) {
    CUgraphExec exec = nullptr;
    ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS) << "it ends with its launch";
    EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  }

  std::atomic<bool> open_{false};
  CUstream other_ = nullptr, third_ = nullptr, writer_ = nullptr;
};

TEST_F(WaitingStream, AHostFunctionHoldsUpNobodyElse) {
  expect_no_hang([&] { block(stream_); });
}

TEST_F(WaitingStream, AHostFunctionThroughThePerThreadEntryPointHoldsUpNobodyElse) {
  expect_no_hang(
      [&] { ASSERT_EQ(cuLaunchHostFunc_ptsz(stream_, until_open, &open_), CUDA_SUCCESS); });
}

TEST_F(WaitingStream, ACallbackHoldsUpNobodyElse) {
  expect_no_hang([&] {
    ASSERT_EQ(cuStreamAddCallback(stream_, until_open_callback, &open_, 0), CUDA_SUCCESS);
  });
}

TEST_F(WaitingStream, ACallbackThroughThePerThreadEntryPointHoldsUpNobodyElse) {
  expect_no_hang([&] {
    ASSERT_EQ(cuStreamAddCallback_ptsz(stream_, until_open_callback, &open_, 0), CUDA_SUCCESS);
  });
}

TEST_F(WaitingStream, AnAwaitedWordHoldsUpNobodyElse) {
  expect_no_hang([&] {
    ASSERT_EQ(cuStreamWaitValue32_v2(stream_, word(), 1, CU_STREAM_WAIT_VALUE_EQ), CUDA_SUCCESS);
  });
}

TEST_F(WaitingStream, AnAwaitedLongWordHoldsUpNobodyElse) {
  expect_no_hang([&] {
    ASSERT_EQ(cuStreamWaitValue64_v2(stream_, word(), 1, CU_STREAM_WAIT_VALUE_GEQ), CUDA_SUCCESS);
  });
}

TEST_F(WaitingStream, ABatchThatWaitsHoldsUpNobodyElse) {
  CUstreamBatchMemOpParams operations[2] = {};
  operations[0].writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_32, plain_, {.value = 1}, 0, 0};
  operations[1].waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, word(), {.value = 1}, 0, 0};
  expect_no_hang(
      [&] { ASSERT_EQ(cuStreamBatchMemOp_v2(stream_, 2, operations, 0), CUDA_SUCCESS); });
}

TEST_F(WaitingStream, AnEventOfAStreamThatWaitsHoldsUpNobodyElse) {
  CUevent event = nullptr;
  ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  expect_no_hang([&] {
    block(third_);
    ASSERT_EQ(cuEventRecord(event, third_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(stream_, event, 0), CUDA_SUCCESS);
  });
  EXPECT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
}

TEST_F(WaitingStream, AGraphsHostFunctionHoldsUpNobodyElse) {
  expect_no_hang([&] {
    CUgraph graph = nullptr;
    ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
    CUDA_HOST_NODE_PARAMS host{};
    host.fn = until_open;
    host.userData = &open_;
    CUgraphNode node = nullptr;
    ASSERT_EQ(cuGraphAddHostNode(&node, graph, nullptr, 0, &host), CUDA_SUCCESS);
    launch(graph, stream_);
  });
}

TEST_F(WaitingStream, AGraphsAwaitedEventHoldsUpNobodyElse) {
  CUevent event = nullptr;
  ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  expect_no_hang([&] {
    block(third_);
    ASSERT_EQ(cuEventRecord(event, third_), CUDA_SUCCESS);
    CUgraph graph = nullptr;
    ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
    CUgraphNode node = nullptr;
    ASSERT_EQ(cuGraphAddEventWaitNode(&node, graph, nullptr, 0, event), CUDA_SUCCESS);
    launch(graph, stream_);
  });
  EXPECT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
}

TEST_F(WaitingStream, AGraphsAwaitedWordHoldsUpNobodyElse) {
  CUstreamBatchMemOpParams operation = {};
  operation.waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, word(), {.value = 1}, 0, 0};
  expect_no_hang([&] {
    CUgraph graph = nullptr;
    ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
    CUDA_BATCH_MEM_OP_NODE_PARAMS params{};
    params.ctx = context_;
    params.count = 1;
    params.paramArray = &operation;
    CUgraphNode node = nullptr;
    ASSERT_EQ(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params), CUDA_SUCCESS);
    launch(graph, stream_);
  });
}

// What comes to the legacy stream later waits for every blocking stream.
TEST_F(WaitingStream, ABlockingStreamsWaitHoldsUpNobodyThroughTheLegacyStream) {
  CUstream blocking = nullptr;
  ASSERT_EQ(cuStreamCreate(&blocking, CU_STREAM_DEFAULT), CUDA_SUCCESS);
  work_alone(nullptr);
  block(blocking);
  ASSERT_EQ(cuMemsetD8Async(pool_, 7, kMiB, other_), CUDA_SUCCESS);
  EXPECT_TRUE(finishes(other_));
  open();
  EXPECT_EQ(cuStreamDestroy_v2(blocking), CUDA_SUCCESS);
}

// Pool work writes the awaited word itself.
TEST_F(WaitingStream, AWordInAPoolMayBeAwaited) {
  work_alone(stream_);
  const CUdeviceptr inside = pool_ + 40 * kMiB;
  ASSERT_EQ(cuStreamWaitValue32_v2(stream_, inside, 3, CU_STREAM_WAIT_VALUE_EQ), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool_, 7, kMiB, other_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWriteValue32_v2(other_, inside, 3, 0), CUDA_SUCCESS);
  if (!finishes(other_)) {
    std::fputs("the write waits for the wait for it; nobody else ends that\n", stderr);
    std::abort();
  }
  EXPECT_TRUE(finishes(stream_));
}

}  // namespace
}  // namespace kvshim::preload
