#include "vmm/mapper.h"

#include <gtest/gtest.h>

#include "tests/vmm/fake_driver.h"
#include "tests/vmm/fake_pressure.h"

namespace kvshim::vmm::testing {
namespace {

using Mapped = FakeDriver::Mapped;

class MapperTest : public ::testing::Test {
 protected:
  MapperTest() {
    EXPECT_EQ(driver_.api().cuMemAddressReserve(&base_, 16 * order_bytes(kMaxOrder),
                                                order_bytes(kMaxOrder), 0, 0),
              CUDA_SUCCESS);
  }
  ~MapperTest() override {
    EXPECT_TRUE(driver_.violations().empty());
    const PhysicalBytes& held = mapper_.physical();
    EXPECT_EQ(driver_.device_bytes(), held.device + held.zero);
    EXPECT_EQ(driver_.host_bytes(), held.host);
  }
  FakeDriver driver_;
  Mapper mapper_{driver_.api(), 0, 0};
  CUdeviceptr base_ = 0;
};

TEST_F(MapperTest, CountsEveryHandleByKind) {
  CUmemGenericAllocationHandle device = 0, host = 0, zero = 0;
  ASSERT_EQ(mapper_.create_device(2, &device), CUDA_SUCCESS);
  ASSERT_EQ(mapper_.create_host(1, &host), CUDA_SUCCESS);
  ASSERT_EQ(mapper_.zero_handle(3, &zero), CUDA_SUCCESS);
  EXPECT_EQ(mapper_.physical().device, order_bytes(2));
  EXPECT_EQ(mapper_.physical().host, order_bytes(1));
  EXPECT_EQ(mapper_.physical().zero, order_bytes(3));
  mapper_.release_device(2, device);
  mapper_.release_host(1, host);
  mapper_.release_zero_handles();
  EXPECT_EQ(driver_.live_handles(), 0u);
}

// Neighbours must never take for used what a pool is about to hold or has just let go.
TEST_F(MapperTest, WhatIsHeldIsToldBeforeItIsMadeAndAfterItsRelease) {
  FakePressure pressure;
  Mapper mapper(driver_.api(), 0, 0, &pressure);
  CUmemGenericAllocationHandle handle = 0, zero = 0;
  const auto told = [&] { return static_cast<std::uint64_t>(pressure.held.load()); };
  // At no moment is less told than there is.
  pressure.on_held = [&] { EXPECT_GE(told(), driver_.device_bytes()); };
  ASSERT_EQ(mapper.create_device(3, &handle), CUDA_SUCCESS);
  EXPECT_EQ(told(), order_bytes(3));
  driver_.fail(Call::cuMemCreate, 1, CUDA_ERROR_OUT_OF_MEMORY);
  CUmemGenericAllocationHandle none = 0;
  EXPECT_EQ(mapper.create_device(4, &none), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(told(), order_bytes(3));
  ASSERT_EQ(mapper.zero_handle(1, &zero), CUDA_SUCCESS);
  EXPECT_EQ(told(), order_bytes(3) + order_bytes(1));
  mapper.release_device(3, handle);
  ASSERT_EQ(mapper.create_device(2, &handle), CUDA_SUCCESS);
  mapper.release_device(2, handle);
  mapper.release_zero_handles();
  EXPECT_EQ(told(), 0u);
}

TEST_F(MapperTest, OneZeroHandleServesAllPiecesOfAnOrderReadOnly) {
  const Piece pieces[] = {{0, 4}, {16, 4}, {32, 0}};
  ASSERT_EQ(mapper_.map_zero(base_, pieces), CUDA_SUCCESS);
  EXPECT_EQ(driver_.live_handles(), 2u);
  EXPECT_EQ(driver_.mapped(base_ + 31 * kGranuleBytes), Mapped::kReadOnly);
  EXPECT_EQ(driver_.mapped(base_ + 32 * kGranuleBytes), Mapped::kReadOnly);
  EXPECT_EQ(driver_.mapped(base_ + 33 * kGranuleBytes), Mapped::kHole);
}

// One handle of 16 MiB less in each process with pools.
TEST_F(MapperTest, APieceOf16MiBIsMappedAsTwo) {
  const Piece pieces[] = {{8, 3}};
  ASSERT_EQ(mapper_.map_zero(base_, pieces), CUDA_SUCCESS);
  EXPECT_EQ(mapper_.physical().zero, order_bytes(2));
  for (std::uint32_t offset = 8; offset < 16; ++offset) {
    EXPECT_EQ(driver_.mapped(base_ + offset * kGranuleBytes), Mapped::kReadOnly);
  }
  EXPECT_EQ(driver_.mapped(base_ + 16 * kGranuleBytes), Mapped::kHole);
  EXPECT_EQ(mapper_.unmap(base_ + 8 * kGranuleBytes, order_bytes(3)), CUDA_SUCCESS);
  EXPECT_EQ(driver_.mapped(base_ + 8 * kGranuleBytes), Mapped::kHole);
}

TEST_F(MapperTest, AFailedMapLeavesNothingMapped) {
  CUmemGenericAllocationHandle handle = 0;
  ASSERT_EQ(mapper_.create_device(0, &handle), CUDA_SUCCESS);
  for (const Call call : {Call::cuMemMap, Call::cuMemSetAccess}) {
    driver_.fail(call, 1, CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(mapper_.map(base_, 0, handle, true), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(driver_.mapping_bytes(base_), 0u);
  }
  EXPECT_EQ(mapper_.map(base_, 0, handle, true), CUDA_SUCCESS);
}

TEST_F(MapperTest, MapZeroUnmapsWhatItMappedWhenALaterPieceFails) {
  const Piece pieces[] = {{0, 4}, {16, 3}, {24, 0}};
  for (const Call call : {Call::cuMemCreate, Call::cuMemMap, Call::cuMemSetAccess}) {
    driver_.fail(call, 3, CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(mapper_.map_zero(base_, pieces), CUDA_ERROR_OUT_OF_MEMORY);
    for (const std::uint32_t offset : {0u, 16u, 24u}) {
      EXPECT_EQ(driver_.mapping_bytes(base_ + offset * kGranuleBytes), 0u);
    }
    mapper_.release_zero_handles();
  }
  EXPECT_EQ(mapper_.map_zero(base_, pieces), CUDA_SUCCESS);
}

TEST_F(MapperTest, ASwapWatchSeesASwapThatOverlapsIt) {
  SwapWatch before = SwapWatch::start();
  EXPECT_FALSE(before.overlapped());
  mapper_.begin_swap(0, kGranuleBytes);
  EXPECT_TRUE(before.overlapped());
  const SwapWatch during = SwapWatch::start();
  mapper_.end_swap();
  EXPECT_TRUE(during.overlapped());
  EXPECT_FALSE(SwapWatch::start().overlapped());
}

}  // namespace
}  // namespace kvshim::vmm::testing
