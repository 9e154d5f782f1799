#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "range_fakes.h"

namespace kvshim::preload {
namespace {

using fakes::kArena;
using fakes::kOther;
using fakes::kPool;
using fakes::notes;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

class QueryHooks : public testing::Test {
 protected:
  void SetUp() override { fakes::reset(); }

  template <class T>
  static T ask(CUpointer_attribute attribute, CUdeviceptr address = kPool + 12345) {
    T value;
    std::memset(&value, 0xa5, sizeof value);
    EXPECT_EQ(hook_cuPointerGetAttribute(&value, attribute, address), CUDA_SUCCESS) << attribute;
    return value;
  }
};

TEST_F(QueryHooks, APoolAnswersLikeOneAllocation) {
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  EXPECT_EQ(hook_cuMemGetAddressRange_v2(&base, &bytes, kPool + 12345), CUDA_SUCCESS);
  EXPECT_EQ(base, kPool);
  EXPECT_EQ(bytes, fakes::kToldBytes);
  EXPECT_EQ(hook_cuMemGetAddressRange_v2(nullptr, nullptr, kPool), CUDA_SUCCESS);
  EXPECT_EQ(ask<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT), fakes::kContext);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE), unsigned{CU_MEMORYTYPE_DEVICE});
  EXPECT_EQ(ask<CUdeviceptr>(CU_POINTER_ATTRIBUTE_DEVICE_POINTER), kPool + 12345);
  EXPECT_EQ(ask<int>(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL), 0);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_IS_MANAGED), 0u);
  EXPECT_EQ(ask<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR), kPool);
  EXPECT_EQ(ask<std::size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE), fakes::kToldBytes);
  EXPECT_EQ(ask<CUdeviceptr>(CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR), kPool);
  EXPECT_EQ(ask<std::size_t>(CU_POINTER_ATTRIBUTE_MAPPING_SIZE), fakes::kToldBytes);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_MAPPED), 1u);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_ACCESS_FLAGS), 3u);
  EXPECT_EQ(ask<CUmemoryPool>(CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE), nullptr);
  EXPECT_EQ(ask<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID), (1ull << 48) + 77u);
  EXPECT_THAT(notes().calls, IsEmpty()) << "the driver is never asked about a pool";
}

TEST_F(QueryHooks, CapabilitiesToShareAreNotClaimed) {
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE), 0u);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE), 0u);
  EXPECT_EQ(ask<unsigned long long>(CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES), 0u);
}

TEST_F(QueryHooks, WhatDoesNotExistIsAnErrorAloneAndNullInAList) {
  void* pointer = this;
  EXPECT_EQ(hook_cuPointerGetAttribute(&pointer, CU_POINTER_ATTRIBUTE_HOST_POINTER, kPool),
            CUDA_ERROR_INVALID_VALUE);
  unsigned type = 0;
  std::array<CUpointer_attribute, 2> attributes = {CU_POINTER_ATTRIBUTE_HOST_POINTER,
                                                   CU_POINTER_ATTRIBUTE_MEMORY_TYPE};
  std::array<void*, 2> data = {&pointer, &type};
  EXPECT_EQ(hook_cuPointerGetAttributes(2, attributes.data(), data.data(), kPool), CUDA_SUCCESS);
  EXPECT_EQ(pointer, nullptr);
  EXPECT_EQ(type, unsigned{CU_MEMORYTYPE_DEVICE});
  EXPECT_THAT(notes().calls, IsEmpty());
}

TEST_F(QueryHooks, OtherAddressesAreTheDrivers) {
  CUdeviceptr base = 0;
  hook_cuMemGetAddressRange_v2(&base, nullptr, kOther);
  hook_cuMemGetAddressRange_v2(&base, nullptr, kArena);  // of the arena, but of no pool
  unsigned long long flags = 0;
  CUmemLocation location = {};
  hook_cuMemGetAccess(&flags, &location, kOther);
  EXPECT_THAT(notes().names(),
              ElementsAre("cuMemGetAddressRange_v2", "cuMemGetAddressRange_v2", "cuMemGetAccess"));
}

TEST_F(QueryHooks, AccessAndHandlesAreThoseOfCuMemAllocMemory) {
  unsigned long long flags = 9;
  CUmemLocation location = {};
  EXPECT_EQ(hook_cuMemGetAccess(&flags, &location, kPool), CUDA_SUCCESS);
  EXPECT_EQ(flags, 0u);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(hook_cuMemRetainAllocationHandle(&handle, reinterpret_cast<void*>(kPool)),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_THAT(notes().calls, IsEmpty());
}

TEST_F(QueryHooks, SyncMemopsIsRemembered) {
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_SYNC_MEMOPS), 0u);
  const unsigned on = 1;
  EXPECT_EQ(hook_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, kPool), CUDA_SUCCESS);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_SYNC_MEMOPS), 1u);
  EXPECT_EQ(hook_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_CONTEXT, kPool),
            CUDA_ERROR_INVALID_VALUE);
  const unsigned off = 0;
  hook_cuPointerSetAttribute(&off, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, kPool);
  EXPECT_EQ(ask<unsigned>(CU_POINTER_ATTRIBUTE_SYNC_MEMOPS), 0u);
}

TEST_F(QueryHooks, RefusedSharingNamesTheRule) {
  CUipcMemHandle handle = {};
  EXPECT_EQ(hook_cuIpcGetMemHandle(&handle, kPool + 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuIpcGetMemHandle(&handle, kPool), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(notes().log.size(), 1u) << "once";
  EXPECT_THAT(notes().log[0], HasSubstr("cuIpcGetMemHandle"));
  EXPECT_THAT(notes().log[0], EndsWith("\n[[rules]]\naction = \"deny\"\nmin_size = 67104768\n"
                                       "max_size = 67104768"))
      << "can be pasted";
  int descriptor = -1;
  EXPECT_EQ(hook_cuMemGetHandleForAddressRange(&descriptor, kPool, 4096,
                                               CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(notes().log.size(), 2u);
  EXPECT_THAT(notes().calls, IsEmpty());
  hook_cuIpcGetMemHandle(&handle, kOther);
  EXPECT_THAT(notes().names(), ElementsAre("cuIpcGetMemHandle"));
}

TEST_F(QueryHooks, PeerAccessIsTakenNoteOfWhereItWasGiven) {
  const auto peer = reinterpret_cast<CUcontext>(0x77);
  EXPECT_EQ(hook_cuCtxEnablePeerAccess(peer, 0), CUDA_SUCCESS);
  EXPECT_EQ(notes().peers, std::vector<CUcontext>{peer});
  notes().driver_result = CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  EXPECT_EQ(hook_cuCtxEnablePeerAccess(peer, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  EXPECT_EQ(notes().peers.size(), 1u);
}

TEST_F(QueryHooks, MappingCallsNeverReachTheArena) {
  EXPECT_EQ(hook_cuMemUnmap(kArena, 4096), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuMemAddressFree(kArena - 4096, 8192), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuMemMap(kPool, 4096, 0, 1, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuMemSetAccess(kPool, 4096, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_THAT(notes().calls, IsEmpty());
  hook_cuMemUnmap(kOther, 4096);
  hook_cuMemMap(kOther, 4096, 0, 1, 0);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemUnmap", "cuMemMap"));
}

TEST_F(QueryHooks, ManagedMemorysCallsAreRefused) {
  CUmemLocation location = {};
  EXPECT_EQ(hook_cuMemAdvise_v2(kPool, 4096, CU_MEM_ADVISE_SET_READ_MOSTLY, location),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuMemPrefetchAsync(kPool, 4096, 0, nullptr), CUDA_ERROR_INVALID_VALUE);
  std::array<CUdeviceptr, 2> addresses = {kOther, kPool};
  std::array<std::size_t, 2> sizes = {4096, 4096};
  EXPECT_EQ(hook_cuMemDiscardBatchAsync(addresses.data(), sizes.data(), 2, 0, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_THAT(notes().calls, IsEmpty());
  EXPECT_EQ(hook_cuMemDiscardBatchAsync(addresses.data(), sizes.data(), 1, 0, nullptr),
            CUDA_SUCCESS);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemDiscardBatchAsync"));
}

TEST_F(QueryHooks, TensorMapsAreRememberedByTheirAddress) {
  CUtensorMap map = {};
  hook_cuTensorMapReplaceAddress(&map, reinterpret_cast<void*>(kPool + 256));
  hook_cuTensorMapReplaceAddress(&map, reinterpret_cast<void*>(kOther));
  EXPECT_THAT(notes().remembered, ElementsAre(kPool + 256));
  notes().driver_result = CUDA_ERROR_INVALID_VALUE;
  hook_cuTensorMapReplaceAddress(&map, reinterpret_cast<void*>(kPool + 512));
  EXPECT_EQ(notes().remembered.size(), 1u) << "no map was made";
}

TEST_F(QueryHooks, ATexturesPartOfAPoolStaysUntilItIsDestroyed) {
  CUDA_RESOURCE_DESC resource = {};
  resource.resType = CU_RESOURCE_TYPE_LINEAR;
  resource.res.linear.devPtr = kPool + 4096;
  resource.res.linear.sizeInBytes = 8192;
  CUtexObject texture = 5;
  EXPECT_EQ(hook_cuTexObjectCreate(&texture, &resource, nullptr, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(notes().pinned.size(), 1u);
  EXPECT_EQ(notes().pinned[0].address, kPool + 4096);
  EXPECT_EQ(notes().pinned[0].bytes, 8192u);
  EXPECT_THAT(notes().unpinned, IsEmpty());
  hook_cuTexObjectDestroy(6);
  EXPECT_THAT(notes().unpinned, IsEmpty());
  notes().driver_result = CUDA_ERROR_UNKNOWN;
  hook_cuTexObjectDestroy(5);
  EXPECT_THAT(notes().unpinned, IsEmpty()) << "it lives on";
  notes().driver_result = CUDA_SUCCESS;
  hook_cuTexObjectDestroy(5);
  EXPECT_THAT(notes().unpinned, ElementsAre(1u));
  hook_cuTexObjectDestroy(5);
  EXPECT_EQ(notes().unpinned.size(), 1u);
}

TEST_F(QueryHooks, ATextureThatFailsPinsNothing) {
  CUDA_RESOURCE_DESC resource = {};
  resource.resType = CU_RESOURCE_TYPE_PITCH2D;
  resource.res.pitch2D.devPtr = kPool;
  resource.res.pitch2D.pitchInBytes = 512;
  resource.res.pitch2D.height = 16;
  notes().driver_result = CUDA_ERROR_INVALID_VALUE;
  CUtexObject texture = 9;
  EXPECT_EQ(hook_cuTexObjectCreate(&texture, &resource, nullptr, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(notes().pinned.size(), 1u);
  EXPECT_EQ(notes().pinned[0].bytes, 8192u);
  EXPECT_THAT(notes().unpinned, ElementsAre(1u));
}

}  // namespace
}  // namespace kvshim::preload
