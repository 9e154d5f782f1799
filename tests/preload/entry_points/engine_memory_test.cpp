// What counts as the engine's memory beside cuMemAlloc, and for how long.
#include "preload/engine_memory.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "preload/hooks.h"
#include "preload/plain_memory.h"
#include "tests/preload/entry_points/range_fakes.h"

namespace kvshim::preload {
namespace {

std::int64_t counted[2] = {0, 0};

}  // namespace

// In place of plain_memory.cpp's.
void change_plain(CUdevice device, std::int64_t bytes) noexcept { counted[device] += bytes; }

namespace {

constexpr std::size_t kBytes = 8 << 20;
constexpr CUdeviceptr kAddress = 0x7000'0000'0000;

CUmemAllocationProp on_device(CUdevice device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  return properties;
}

class EngineMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    forget_engine_memory_after_fork();
    fakes::reset(false);
    counted[0] = counted[1] = 0;
  }
};

TEST_F(EngineMemoryTest, AHandleCountsForItsDeviceUntilItIsReleased) {
  count_created(1, on_device(1), kBytes);
  EXPECT_EQ(counted[1], kBytes);
  EXPECT_EQ(counted[0], 0);
  count_released(1);
  EXPECT_EQ(counted[1], 0);
}

TEST_F(EngineMemoryTest, AMappingKeepsAReleasedHandlesMemory) {
  count_created(1, on_device(0), kBytes);
  EXPECT_EQ(hook_cuMemMap(kAddress, kBytes, 0, 1, 0), CUDA_SUCCESS);
  count_released(1);
  EXPECT_EQ(counted[0], kBytes);
  // The number may be another's by now.
  count_created(1, on_device(0), 2 * kBytes);
  EXPECT_EQ(counted[0], 3 * kBytes);
  EXPECT_EQ(hook_cuMemUnmap(kAddress, kBytes), CUDA_SUCCESS);
  EXPECT_EQ(counted[0], 2 * kBytes);
}

TEST_F(EngineMemoryTest, UnmappingARangeEndsAllMappingsInIt) {
  count_created(1, on_device(0), kBytes);
  count_created(2, on_device(0), kBytes);
  count_mapped(kAddress, kBytes, 1);
  count_mapped(kAddress + kBytes, kBytes, 2);
  count_mapped(kAddress + 2 * kBytes, kBytes, 2);  // twice in one place
  count_released(1);
  count_released(2);
  count_unmapped(kAddress, 2 * kBytes);
  EXPECT_EQ(counted[0], kBytes) << "the second is still mapped elsewhere";
  count_unmapped(kAddress + 2 * kBytes, kBytes);
  EXPECT_EQ(counted[0], 0);
}

TEST_F(EngineMemoryTest, ARetainedHandleNeedsAsManyReleases) {
  count_created(1, on_device(0), kBytes);
  count_retained(1);
  count_released(1);
  EXPECT_EQ(counted[0], kBytes);
  count_released(1);
  EXPECT_EQ(counted[0], 0);
}

TEST_F(EngineMemoryTest, HostMemoryAndForeignHandlesDoNotCount) {
  CUmemAllocationProp host = on_device(0);
  host.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA;
  count_created(1, host, kBytes);
  count_mapped(kAddress, kBytes, 7);
  count_released(7);
  count_unmapped(kAddress, kBytes);
  EXPECT_EQ(counted[0], 0);
}

TEST_F(EngineMemoryTest, AnArrayCountsByItsSizeUntilItOrItsContextEnds) {
  CUDA_ARRAY3D_DESCRIPTOR array{};
  array.Width = 64;
  array.Height = 8;
  array.NumChannels = 4;
  array.Format = CU_AD_FORMAT_HALF;
  EXPECT_EQ(array_bytes(array), 64u * 8 * 4 * 2);
  EXPECT_EQ(array_bytes(array, 2), 64u * 8 * 8 + 32u * 4 * 8);
  array.Flags = CUDA_ARRAY3D_SPARSE;
  EXPECT_EQ(array_bytes(array), 0u);
  int one = 0, two = 0;
  count_array(&one, 100);
  count_array(&two, 10);
  EXPECT_EQ(counted[0], 110);
  uncount_array(&one);
  EXPECT_EQ(counted[0], 10);
  uncount_arrays_of(nullptr);  // the fake driver's current context
  EXPECT_EQ(counted[0], 0);
}

}  // namespace
}  // namespace kvshim::preload
