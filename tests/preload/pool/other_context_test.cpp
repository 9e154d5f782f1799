// Work on a pool from another context than the pool's own: its guards stay at home.
#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

class OtherContext : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuCtxCreate_v2(&other_, 0, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamCreate(&theirs_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
  }
  void TearDown() override {
    if (other_ != nullptr) {
      EXPECT_EQ(cuStreamDestroy_v2(theirs_), CUDA_SUCCESS);
      EXPECT_EQ(cuCtxDestroy_v2(other_), CUDA_SUCCESS);
      EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }

  CUcontext other_ = nullptr;
  CUstream theirs_ = nullptr;
};

TEST_F(OtherContext, WritesAndReadsWhatOrdinaryMemoryWould) {
  ASSERT_EQ(cuMemsetD8Async(pool_, 7, 3 * kMiB, theirs_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(pool_ + 32 * kMiB, pool_ + kMiB, kMiB, theirs_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(theirs_), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_, 3 * kMiB), std::vector<std::uint8_t>(3 * kMiB, 7));
  EXPECT_EQ(contents(pool_ + 32 * kMiB, kMiB), std::vector<std::uint8_t>(kMiB, 7));
  ASSERT_EQ(cuMemsetD8Async(pool_ + kMiB, 9, 2 * kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_ + kMiB, 2 * kMiB), std::vector<std::uint8_t>(2 * kMiB, 9));
}

TEST_F(OtherContext, ItsCapturesCarryNoGuardsAndNeedNone) {
  ASSERT_EQ(cuStreamBeginCapture_v2(theirs_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(pool_, 5, kMiB, theirs_), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(theirs_, &graph), CUDA_SUCCESS);
  std::size_t nodes = 0;
  ASSERT_EQ(cuGraphGetNodes(graph, nullptr, &nodes), CUDA_SUCCESS);
  EXPECT_EQ(nodes, 1u) << "a guard can't run in the context of another GPU";
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, theirs_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(theirs_), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 5));
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
