// A fill with zeros is left out only where nothing can have written, or will have by the time
// the fill runs.
#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

constexpr const char* kStoreName = "kvshim_test_store_seven";
constexpr const char* kCode = R"(.version 6.4
.target sm_75
.address_size 64
.visible .entry kvshim_test_store_seven(.param .u64 p0)
{
  .reg .b32 %r<2>;
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [p0];
  cvta.to.global.u64 %rd2, %rd1;
  mov.u32 %r1, 7;
  st.global.u32 [%rd2], %r1;
  ret;
}
)";

class DroppedFills : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    module_ = load(kCode, kStoreName,
                   [](void* const* parameters) { **static_cast<int**>(parameters[0]) = 7; });
    store_ = kernel(module_, kStoreName);
    // All of it now: lazy loading would wait for the streams that stand.
    ASSERT_EQ(cuFuncLoad(store_), CUDA_SUCCESS);
  }
  void TearDown() override {
    open_.store(true);
    if (module_ != nullptr) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(cuModuleUnload(module_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }
  CUresult store_seven(CUdeviceptr at) {
    void* arguments[] = {&at};
    return cuLaunchKernel(store_, 1, 1, 1, 1, 1, 1, 0, stream_, arguments, nullptr);
  }
  static int word(CUdeviceptr at) {
    int value = -1;
    EXPECT_EQ(cuMemcpyDtoH_v2(&value, at, sizeof value), CUDA_SUCCESS);
    return value;
  }

  std::atomic<bool> open_{false};
  CUmodule module_ = nullptr;
  CUfunction store_ = nullptr;
};

TEST_F(DroppedFills, AFillBehindAnUnfinishedWriterIsMade) {
  const CUdeviceptr at = pool_ + kPoolBytes - 4 * kMiB;
  ASSERT_EQ(cuLaunchHostFunc(stream_, until_open, &open_), CUDA_SUCCESS);
  ASSERT_EQ(store_seven(at), CUDA_SUCCESS);
  // The call may wait for the pages that the writer in front of it is to get.
  std::thread opener([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    open_.store(true);
  });
  EXPECT_EQ(cuMemsetD8Async(at, 0, kMiB, stream_), CUDA_SUCCESS);
  opener.join();
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_EQ(word(at), 0);
}

TEST_F(DroppedFills, AFillInACaptureIsMadeByEachLaunch) {
  const CUdeviceptr at = pool_ + kPoolBytes - 4 * kMiB;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD8Async(at, 0, kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  for (int launch = 0; launch < 2; ++launch) {
    ASSERT_EQ(store_seven(at), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    EXPECT_EQ(word(at), 7) << "the writer writes";
    ASSERT_EQ(cuGraphLaunch(exec, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    EXPECT_EQ(word(at), 0) << launch;
  }
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
