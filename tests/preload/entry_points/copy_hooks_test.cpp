#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>

#include "range_fakes.h"

namespace kvshim::preload {
namespace {

using fakes::kOther;
using fakes::kPool;
using fakes::kStream;
using fakes::notes;
using testing::ElementsAre;
using testing::IsEmpty;

class CopyHooks : public testing::Test {
 protected:
  void SetUp() override { fakes::reset(); }

  /// The one piece of work, with these accesses.
  static void expect_work(const std::vector<Access>& accesses, CUstream stream,
                          StreamFlavor flavor) {
    ASSERT_EQ(notes().work.size(), 1u);
    const fakes::Work& work = notes().work.front();
    EXPECT_EQ(work.stream, stream);
    EXPECT_EQ(work.flavor, flavor);
    ASSERT_EQ(work.accesses.size(), accesses.size());
    for (std::size_t i = 0; i < accesses.size(); ++i) {
      EXPECT_EQ(work.accesses[i].address, accesses[i].address) << i;
      EXPECT_EQ(work.accesses[i].bytes, accesses[i].bytes) << i;
      EXPECT_EQ(work.accesses[i].writes, accesses[i].writes) << i;
    }
  }

  std::array<std::uint64_t, 64> host_ = {};
  std::uint64_t host_word_ = reinterpret_cast<std::uintptr_t>(host_.data());
};

TEST_F(CopyHooks, WithoutPoolsTheCallPassesAlone) {
  fakes::reset(false);
  hook_cuMemcpyHtoDAsync_v2(kOther, host_.data(), 64, kStream);
  hook_cuMemcpyDtoD_v2(kOther, kOther + 64, 64);
  hook_cuMemcpyAsync(kOther, host_word_, 64, kStream);
  EXPECT_EQ(notes().calls.size(), 3u);
  EXPECT_THAT(notes().work, IsEmpty());
  EXPECT_THAT(notes().payloads, IsEmpty());
}

TEST_F(CopyHooks, CopiesElsewherePassButTheirPayloadIsSearched) {
  hook_cuMemcpyHtoDAsync_v2(kOther, host_.data(), 512, kStream);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyHtoDAsync_v2"));
  EXPECT_THAT(notes().work, IsEmpty());
  EXPECT_THAT(notes().payloads,
              ElementsAre(std::pair<const void*, std::size_t>(host_.data(), 512)));
}

TEST_F(CopyHooks, ADevicePointerCalledHostIsNeverRead) {
  hook_cuMemcpyHtoD_v2(kOther, reinterpret_cast<const void*>(kOther + 4096), 512);
  EXPECT_THAT(notes().payloads, IsEmpty());
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyHtoD_v2"));
}

TEST_F(CopyHooks, HostMemoryThatOnlyTheGpuMayReadIsNotSearched) {
  constexpr std::size_t kPiece = std::size_t{2} << 20;
  void* const place = mmap(nullptr, 5 * kPiece, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  const auto first = (reinterpret_cast<std::uintptr_t>(place) / kPiece + 1) * kPiece;
  const auto piece = [&](std::size_t i) { return reinterpret_cast<void*>(first + i * kPiece); };
  notes().host_memory = {first};
  hook_cuMemcpyHtoDAsync_v2(kOther, piece(0), 4 * kPiece, kStream);
  EXPECT_THAT(notes().payloads, IsEmpty());
  // Mapped side by side, each with its own access.
  ASSERT_EQ(mprotect(piece(0), kPiece, PROT_READ), 0);
  ASSERT_EQ(mprotect(piece(2), 2 * kPiece, PROT_READ), 0);
  notes().host_memory = {first + 64};
  hook_cuMemcpyHtoDAsync_v2(kOther, reinterpret_cast<void*>(first + 64), 4 * kPiece - 64, kStream);
  EXPECT_THAT(notes().payloads,
              ElementsAre(std::pair<const void*, std::size_t>(reinterpret_cast<void*>(first + 64),
                                                              kPiece - 64),
                          std::pair<const void*, std::size_t>(piece(2), 2 * kPiece)));
  munmap(place, 5 * kPiece);
}

TEST_F(CopyHooks, WriteIntoAPoolIsGuardedAndRetried) {
  hook_cuMemcpyHtoDAsync_v2(kPool + 8, host_.data(), 512, kStream);
  expect_work({{kPool + 8, 512, true}, {host_word_, 512, false}}, kStream, StreamFlavor::kLegacy);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyHtoDAsync_v2"));
  EXPECT_TRUE(notes().calls.back().submitted);
  EXPECT_TRUE(notes().calls.back().retried);
  EXPECT_EQ(notes().payloads.size(), 1u);
}

TEST_F(CopyHooks, SynchronousCopiesUseTheirFlavoursDefaultStream) {
  hook_cuMemcpyDtoH_v2_ptds(host_.data(), kPool, 512);
  expect_work({{host_word_, 512, true}, {kPool, 512, false}}, nullptr, StreamFlavor::kPerThread);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyDtoH_v2_ptds"));
  fakes::reset();
  hook_cuMemcpyDtoD_v2(kPool, kPool + 4096, 512);
  expect_work({{kPool, 512, true}, {kPool + 4096, 512, false}}, nullptr, StreamFlavor::kLegacy);
}

TEST_F(CopyHooks, UnifiedCopiesOfAPoolBecomeTyped) {
  hook_cuMemcpy(kPool, host_word_, 64);
  hook_cuMemcpy(host_word_, kPool, 64);
  hook_cuMemcpy_ptds(kOther, kPool, 64);
  hook_cuMemcpyAsync(kPool, kOther, 64, kStream);
  hook_cuMemcpyAsync_ptsz(kPool, host_word_, 64, kStream);
  EXPECT_THAT(notes().names(),
              ElementsAre("cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpyDtoD_v2_ptds",
                          "cuMemcpyDtoDAsync_v2", "cuMemcpyHtoDAsync_v2_ptsz"));
  EXPECT_EQ(notes().payloads.size(), 2u);
}

TEST_F(CopyHooks, UnifiedCopiesElsewhereStayUnified) {
  hook_cuMemcpy(kOther, host_word_, 64);
  hook_cuMemcpyAsync(kOther, kOther + 64, 64, kStream);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpy", "cuMemcpyAsync"));
  EXPECT_EQ(notes().payloads.size(), 1u);
  EXPECT_THAT(notes().work, IsEmpty());
}

TEST_F(CopyHooks, AWronglyTypedPoolAddressIsDeviceMemory) {
  hook_cuMemcpyHtoD_v2(kOther, reinterpret_cast<const void*>(kPool), 64);
  hook_cuMemcpyDtoHAsync_v2(reinterpret_cast<void*>(kPool), kOther, 64, kStream);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyDtoD_v2", "cuMemcpyDtoDAsync_v2"));
  EXPECT_THAT(notes().payloads, IsEmpty());
}

TEST_F(CopyHooks, PeerAndArrayCopiesKeepTheirForm) {
  hook_cuMemcpyPeerAsync(kPool, fakes::kContext, kOther, fakes::kContext, 64, kStream);
  expect_work({{kPool, 64, true}, {kOther, 64, false}}, kStream, StreamFlavor::kLegacy);
  hook_cuMemcpyAtoD_v2(kPool, nullptr, 0, 64);
  hook_cuMemcpyDtoA_v2_ptds(nullptr, 0, kPool, 64);
  EXPECT_THAT(notes().names(),
              ElementsAre("cuMemcpyPeerAsync", "cuMemcpyAtoD_v2", "cuMemcpyDtoA_v2_ptds"));
  EXPECT_TRUE(notes().work[1].accesses[0].writes);
  EXPECT_FALSE(notes().work[2].accesses[0].writes);
}

TEST_F(CopyHooks, PlaneTouchesFromFirstToLastByte) {
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = host_.data();
  copy.srcPitch = 32;
  copy.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  copy.dstDevice = kPool;
  copy.dstPitch = 1024;
  copy.dstXInBytes = 16;
  copy.dstY = 3;
  copy.WidthInBytes = 32;
  copy.Height = 4;
  EXPECT_EQ(hook_cuMemcpy2DAsync_v2(&copy, kStream), CUDA_SUCCESS);
  expect_work({{kPool + 3 * 1024 + 16, 3 * 1024 + 32, true}}, kStream, StreamFlavor::kLegacy);
  ASSERT_EQ(notes().copies_2d.size(), 1u);
  EXPECT_EQ(notes().copies_2d[0].dstMemoryType, CU_MEMORYTYPE_DEVICE);
  EXPECT_EQ(notes().copies_2d[0].dstDevice, kPool);
  EXPECT_EQ(notes().copies_2d[0].srcMemoryType, CU_MEMORYTYPE_HOST);
  EXPECT_EQ(copy.dstMemoryType, CU_MEMORYTYPE_UNIFIED) << "the caller's structure is its own";
  EXPECT_THAT(notes().payloads,
              ElementsAre(std::pair<const void*, std::size_t>(host_.data(), 128)));
}

TEST_F(CopyHooks, PayloadGapsAreNotSearched) {
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = host_.data();
  copy.srcPitch = 64;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = kOther;
  copy.dstPitch = 16;
  copy.WidthInBytes = 16;
  copy.Height = 2;
  hook_cuMemcpy2D_v2(&copy);
  const auto* bytes = reinterpret_cast<const char*>(host_.data());
  EXPECT_THAT(notes().payloads, ElementsAre(std::pair<const void*, std::size_t>(bytes, 16),
                                            std::pair<const void*, std::size_t>(bytes + 64, 16)));
  EXPECT_THAT(notes().work, IsEmpty());
}

TEST_F(CopyHooks, BoxesTouchBothSides) {
  CUDA_MEMCPY3D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = kPool;
  copy.srcPitch = 100;
  copy.srcHeight = 10;
  copy.srcZ = 1;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = kPool + (1 << 20);
  copy.dstPitch = 50;
  copy.WidthInBytes = 50;
  copy.Height = 4;
  copy.Depth = 2;
  hook_cuMemcpy3D_v2(&copy);
  expect_work({{kPool + (1 << 20), (1 * 4 + 3) * 50 + 50, true},
               {kPool + 1000, (10 + 3) * 100 + 50, false}},
              nullptr, StreamFlavor::kLegacy);
}

TEST_F(CopyHooks, ArraySidesTouchNothing) {
  CUDA_MEMCPY3D_PEER copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.srcDevice = kPool;  // stale: the type says array
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = kOther;
  copy.WidthInBytes = copy.Height = copy.Depth = 1;
  hook_cuMemcpy3DPeerAsync(&copy, kStream);
  EXPECT_THAT(notes().work, IsEmpty());
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpy3DPeerAsync"));
}

class BatchHooks : public CopyHooks {
 protected:
  std::array<CUdeviceptr, 3> to_ = {kOther, kPool, host_word_};
  std::array<CUdeviceptr, 3> from_ = {kOther + 4096, host_word_ + 64, kPool + 4096};
  std::array<std::size_t, 3> sizes_ = {64, 128, 256};
  CUmemcpyAttributes attribute_ = [] {
    CUmemcpyAttributes attribute = {};
    attribute.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    return attribute;
  }();
  std::size_t start_ = 0;
};

TEST_F(BatchHooks, PoolCopiesLeaveTheBatchInTypedForm) {
  EXPECT_EQ(hook_cuMemcpyBatchAsync_v2(to_.data(), from_.data(), sizes_.data(), 3, &attribute_,
                                       &start_, 1, kStream),
            CUDA_SUCCESS);
  expect_work({{kPool, 128, true}, {kPool + 4096, 256, false}}, kStream, StreamFlavor::kLegacy);
  EXPECT_THAT(notes().names(),
              ElementsAre("cuMemcpyBatchAsync_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2"));
  for (const auto& call : notes().calls) {
    if (call.name == "cuMemcpyBatchAsync_v2") {
      EXPECT_EQ(call.arguments[3], 1u) << "one copy left";
    }
  }
  EXPECT_THAT(notes().payloads, ElementsAre(std::pair<const void*, std::size_t>(
                                    reinterpret_cast<const void*>(host_word_ + 64), 128)));
}

TEST_F(BatchHooks, BatchWithoutAPoolPassesWhole) {
  to_ = {kOther, kOther, kOther};
  from_ = {kOther, kOther, host_word_};
  hook_cuMemcpyBatchAsync_v2_ptsz(to_.data(), from_.data(), sizes_.data(), 3, &attribute_, &start_,
                                  1, kStream);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyBatchAsync_v2_ptsz"));
  EXPECT_THAT(notes().work, IsEmpty());
}

TEST_F(BatchHooks, MalformedBatchesGetTheDriversError) {
  notes().driver_result = CUDA_ERROR_INVALID_VALUE;
  EXPECT_EQ(hook_cuMemcpyBatchAsync_v2(to_.data(), from_.data(), sizes_.data(), 3, nullptr, nullptr,
                                       0, kStream),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook_cuMemcpyBatchAsync_v2(to_.data(), from_.data(), sizes_.data(), 3, &attribute_,
                                       &start_, 1, nullptr),
            CUDA_ERROR_INVALID_VALUE)
      << "the legacy stream is not allowed";
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpyBatchAsync_v2", "cuMemcpyBatchAsync_v2"));
  EXPECT_THAT(notes().work, IsEmpty());
}

TEST_F(BatchHooks, FailingCopyIsNamedByItsPlace) {
  to_[0] = kPool + 8192;  // nothing is left for a batch
  from_[0] = kOther;
  notes().driver_result = CUDA_ERROR_ILLEGAL_ADDRESS;
  std::size_t failed = SIZE_MAX;
  EXPECT_EQ(hook_cuMemcpyBatchAsync(to_.data(), from_.data(), sizes_.data(), 3, &attribute_,
                                    &start_, 1, &failed, kStream),
            CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(failed, 0u);
}

TEST_F(BatchHooks, HostSourceOfTheCallIsReadBeforeItReturns) {
  attribute_.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
  hook_cuMemcpyBatchAsync_v2(to_.data(), from_.data(), sizes_.data(), 3, &attribute_, &start_, 1,
                             kStream);
  EXPECT_EQ(notes().names().back(), "cuStreamSynchronize");
}

TEST_F(BatchHooks, BoxesOfAPoolLeaveTheBatchInTypedForm) {
  std::array<CUDA_MEMCPY3D_BATCH_OP, 2> copies = {};
  for (auto& copy : copies) {
    copy.src.type = copy.dst.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
    copy.src.op.ptr.ptr = kOther;
    copy.dst.op.ptr.ptr = kOther + (1 << 20);
    copy.extent = {16, 4, 2};
    copy.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  }
  copies[1].dst.op.ptr.ptr = kPool;
  copies[1].dst.op.ptr.rowLength = 100;
  copies[1].dst.op.ptr.layerHeight = 8;
  hook_cuMemcpy3DBatchAsync_v2(2, copies.data(), 0, kStream);
  expect_work({{kPool, (8 + 3) * 100 + 16, true}}, kStream, StreamFlavor::kLegacy);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemcpy3DBatchAsync_v2", "cuMemcpy3DAsync_v2"));
  ASSERT_EQ(notes().copies_3d.size(), 1u);
  const CUDA_MEMCPY3D& form = notes().copies_3d[0];
  EXPECT_EQ(form.dstMemoryType, CU_MEMORYTYPE_DEVICE);
  EXPECT_EQ(form.dstPitch, 100u);
  EXPECT_EQ(form.dstHeight, 8u);
  EXPECT_EQ(form.srcMemoryType, CU_MEMORYTYPE_UNIFIED);
  EXPECT_EQ(form.srcPitch, 16u);
  EXPECT_EQ(form.srcHeight, 4u);
}

TEST_F(BatchHooks, DecompressionOfUnknownLengthReachesThePoolsEnd) {
  CUmemDecompressParams params = {};
  params.src = reinterpret_cast<const void*>(kOther);
  params.srcNumBytes = 100;
  params.dst = reinterpret_cast<void*>(kPool + 4096);
  hook_cuMemBatchDecompressAsync(&params, 1, 0, nullptr, kStream);
  expect_work({{kPool + 4096, fakes::kPoolBytes - 4096, true}}, kStream, StreamFlavor::kLegacy);
}

}  // namespace
}  // namespace kvshim::preload
