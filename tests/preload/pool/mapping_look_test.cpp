// Copies and fills at whose mappings the driver looks, while faults swap them. The simulator's
// driver takes its time to look (KVSHIM_SIM_LOOKS_TAKE) and crashes as a GPU's does.
#include <atomic>
#include <thread>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

constexpr std::size_t kGranule = 2 * kMiB;

class MappingLook : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuStreamCreate(&other_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  }
  void TearDown() override {
    if (other_ != nullptr) cuStreamDestroy_v2(other_);
    PoolTest::TearDown();
  }
  CUstream other_ = nullptr;
};

// Only the first of them finds nothing at work.
TEST_F(MappingLook, AFillDoesNotLookAtWhatItsOwnGuardBrings) {
  constexpr std::size_t kPools = 6;
  for (int round = 0; round < 5; ++round) {
    std::vector<CUdeviceptr> pools(kPools);
    for (CUdeviceptr& pool : pools) ASSERT_EQ(cuMemAlloc_v2(&pool, kPoolBytes), CUDA_SUCCESS);
    for (const CUdeviceptr pool : pools) {
      ASSERT_EQ(cuMemsetD8Async(pool, 7, kPoolBytes, stream_), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    EXPECT_EQ(contents(pools[kPools - 1], kPoolBytes), std::vector<std::uint8_t>(kPoolBytes, 7));
    for (const CUdeviceptr pool : pools) ASSERT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  }
}

// What is absent is one mapping of many granules, and a write to one of them swaps it.
TEST_F(MappingLook, ACopyFromAbsentMemoryLooksBetweenTheSwapsBesideIt) {
  CUcontext context = nullptr;
  ASSERT_EQ(cuCtxGetCurrent(&context), CUDA_SUCCESS);
  for (int round = 0; round < 5; ++round) {
    CUdeviceptr pool = 0;
    ASSERT_EQ(cuMemAlloc_v2(&pool, kPoolBytes), CUDA_SUCCESS);
    std::atomic<bool> done{false};
    std::atomic<int> copies{0};
    std::thread reader([&] {
      ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
      for (std::size_t i = 1; !done.load() || i < 8; ++i) {
        const CUdeviceptr from = pool + i % 16 * 2 * kGranule + kGranule;
        ASSERT_EQ(cuMemcpyDtoDAsync_v2(plain_, from, 4096, other_), CUDA_SUCCESS);
        ++copies;
      }
    });
    for (std::size_t granule = 0; granule < 32; granule += 2) {
      EXPECT_EQ(cuMemsetD8Async(pool + granule * kGranule, 7, kGranule, stream_), CUDA_SUCCESS);
    }
    done.store(true);
    reader.join();
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_GE(copies.load(), 7);
    const std::vector<std::uint8_t> all = contents(pool, kPoolBytes);
    for (std::size_t granule = 0; granule < 32; ++granule) {
      EXPECT_EQ(all[granule * kGranule], granule % 2 == 0 ? 7 : 0) << granule;
    }
    ASSERT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  }
}

// No submission keeps it apart: an edit of a graph is none.
TEST_F(MappingLook, ANodeThatCopiesFromAbsentMemoryIsLookedAtBetweenTheSwaps) {
  CUcontext context = nullptr;
  ASSERT_EQ(cuCtxGetCurrent(&context), CUDA_SUCCESS);
  CUdeviceptr pool = 0;
  ASSERT_EQ(cuMemAlloc_v2(&pool, kPoolBytes), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  std::atomic<bool> done{false};
  std::thread builder([&] {
    ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
    for (std::size_t i = 1; !done.load() || i < 8; ++i) {
      CUDA_MEMCPY3D copy{};
      copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
      copy.srcDevice = pool + i % 16 * 2 * kGranule + kGranule;
      copy.dstDevice = plain_;
      copy.WidthInBytes = 4096;
      copy.Height = copy.Depth = 1;
      CUgraphNode node = nullptr;
      ASSERT_EQ(cuGraphAddMemcpyNode(&node, graph, nullptr, 0, &copy, context), CUDA_SUCCESS);
    }
  });
  for (std::size_t granule = 0; granule < 32; granule += 2) {
    EXPECT_EQ(cuMemsetD8Async(pool + granule * kGranule, 7, kGranule, stream_), CUDA_SUCCESS);
  }
  done.store(true);
  builder.join();
  EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
