// What is allocated in stream order becomes a pool only where the driver would have put it into
// the current GPU's own memory.
#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

class StreamOrderedAllocation : public PoolTest {
 protected:
  void free_in_order(CUdeviceptr memory) {
    EXPECT_EQ(cuMemFreeAsync(memory, stream_), CUDA_SUCCESS);
    EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  }
  CUdeviceptr memory_ = 0;
};

TEST_F(StreamOrderedAllocation, OfTheDefaultMemoryPoolBecomesAPool) {
  CUmemoryPool standard = nullptr;
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&standard, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAllocFromPoolAsync(&memory_, kPoolBytes, standard, stream_), CUDA_SUCCESS);
  EXPECT_TRUE(lives(memory_));
  free_in_order(memory_);
  for (const CUstream stream : {stream_, CUstream{nullptr}, CU_STREAM_PER_THREAD}) {
    ASSERT_EQ(cuMemAllocAsync(&memory_, kPoolBytes, stream), CUDA_SUCCESS);
    EXPECT_TRUE(lives(memory_));
    free_in_order(memory_);
  }
}

TEST_F(StreamOrderedAllocation, OfAnotherMemoryPoolIsLeftToTheDriver) {
  CUmemPoolProps properties{};
  properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  CUmemoryPool own = nullptr;
  ASSERT_EQ(cuMemPoolCreate(&own, &properties), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAllocFromPoolAsync(&memory_, kPoolBytes, own, stream_), CUDA_SUCCESS);
  EXPECT_FALSE(lives(memory_));
  free_in_order(memory_);
  EXPECT_EQ(cuMemPoolDestroy(own), CUDA_SUCCESS);
}

TEST_F(StreamOrderedAllocation, WithHandlesThatNobodyKnowsIsAnsweredByTheDriver) {
  if (!simulated()) GTEST_SKIP() << "a real driver may follow wild handles";
  const auto stream = reinterpret_cast<CUstream>(0x77);      // NOLINT
  const auto pool = reinterpret_cast<CUmemoryPool>(0x1234);  // NOLINT
  EXPECT_EQ(cuMemAllocAsync(&memory_, kPoolBytes, stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuMemAllocAsync_ptsz(&memory_, kPoolBytes, stream), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuMemAllocFromPoolAsync(&memory_, kPoolBytes, pool, stream_), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace kvshim::preload
