// A pool answers queries as an ordinary allocation does.
#include <array>
#include <cstring>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

class PoolQueries : public PoolTest {
 protected:
  struct Answer {
    CUresult result = CUDA_SUCCESS;
    std::uint64_t value = 0;
    friend bool operator==(const Answer&, const Answer&) = default;
  };

  static Answer ask(int attribute, CUdeviceptr address) {
    Answer answer;
    answer.result =
        cuPointerGetAttribute(&answer.value, static_cast<CUpointer_attribute>(attribute), address);
    return answer;
  }
};

TEST_F(PoolQueries, RangeIsTheWholeAllocation) {
  for (const CUdeviceptr address : {pool_, pool_ + 1, pool_ + kPoolBytes - 1}) {
    CUdeviceptr base = 0;
    std::size_t bytes = 0;
    ASSERT_EQ(cuMemGetAddressRange_v2(&base, &bytes, address), CUDA_SUCCESS);
    EXPECT_EQ(base, pool_);
    EXPECT_EQ(bytes, kPoolBytes);
  }
}

TEST_F(PoolQueries, AttributesAreThoseOfAnAllocation) {
  const std::array<int, 8> same = {
      CU_POINTER_ATTRIBUTE_CONTEXT,        CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
      CU_POINTER_ATTRIBUTE_HOST_POINTER,   CU_POINTER_ATTRIBUTE_IS_MANAGED,
      CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_MAPPED,
      CU_POINTER_ATTRIBUTE_ACCESS_FLAGS,   CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE};
  for (const int attribute : same) {
    const Answer plain = ask(attribute, plain_ + 4096);
    const Answer pool = ask(attribute, pool_ + 4096);
    EXPECT_EQ(pool.result, plain.result) << attribute;
    EXPECT_EQ(pool.value, plain.value) << attribute;
  }
  EXPECT_EQ(ask(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, pool_ + 4096).value, pool_ + 4096);
  EXPECT_EQ(ask(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pool_ + 4096).value, pool_);
  EXPECT_EQ(ask(CU_POINTER_ATTRIBUTE_RANGE_SIZE, pool_ + 4096).value, kPoolBytes);
  EXPECT_NE(ask(CU_POINTER_ATTRIBUTE_BUFFER_ID, pool_).value,
            ask(CU_POINTER_ATTRIBUTE_BUFFER_ID, plain_).value);
  EXPECT_EQ(ask(CU_POINTER_ATTRIBUTE_BUFFER_ID, pool_).value,
            ask(CU_POINTER_ATTRIBUTE_BUFFER_ID, pool_ + kPoolBytes - 1).value);
}

TEST_F(PoolQueries, ListsAnswerLikeSingleQueries) {
  std::array<CUpointer_attribute, 3> attributes = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                                   CU_POINTER_ATTRIBUTE_CONTEXT,
                                                   CU_POINTER_ATTRIBUTE_HOST_POINTER};
  unsigned type = 0;
  CUcontext context = nullptr;
  void* host = this;
  std::array<void*, 3> data = {&type, &context, &host};
  ASSERT_EQ(cuPointerGetAttributes(3, attributes.data(), data.data(), pool_ + 1), CUDA_SUCCESS);
  EXPECT_EQ(type, unsigned{CU_MEMORYTYPE_DEVICE});
  EXPECT_EQ(context, context_);
  EXPECT_EQ(host, nullptr);
}

TEST_F(PoolQueries, OneByteBehindIsNotThePool) {
  CUdeviceptr base = 0;
  const CUresult result = cuMemGetAddressRange_v2(&base, nullptr, pool_ + kPoolBytes);
  EXPECT_TRUE(result != CUDA_SUCCESS || base != pool_);
}

TEST_F(PoolQueries, HandlesAndMappingCallsAreRefusedAsForAnAllocation) {
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(cuMemRetainAllocationHandle(&handle, reinterpret_cast<void*>(pool_)),
            cuMemRetainAllocationHandle(&handle, reinterpret_cast<void*>(plain_)));
  EXPECT_EQ(cuMemUnmap(pool_, 2 * kMiB), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemAddressFree(pool_, kPoolBytes), CUDA_ERROR_INVALID_VALUE);
  CUipcMemHandle ipc = {};
  EXPECT_EQ(cuIpcGetMemHandle(&ipc, pool_), CUDA_ERROR_INVALID_VALUE);
  // And the pool is as it was.
  ASSERT_EQ(cuMemsetD8_v2(pool_, 3, 4096), CUDA_SUCCESS);
  EXPECT_EQ(contents(pool_, 4096), std::vector<std::uint8_t>(4096, 3));
}

TEST_F(PoolQueries, FreedItIsNothing) {
  ASSERT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
  CUdeviceptr base = 0;
  EXPECT_NE(cuMemGetAddressRange_v2(&base, nullptr, pool_), CUDA_SUCCESS);
  EXPECT_NE(ask(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pool_).result, CUDA_SUCCESS);
  ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
