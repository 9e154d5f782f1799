#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

class FillHooks : public testing::Test {
 protected:
  void SetUp() override { fakes::reset(); }

  static void expect_fill(std::uint64_t address, std::size_t bytes, bool zero, CUstream stream,
                          StreamFlavor flavor) {
    ASSERT_EQ(notes().work.size(), 1u);
    const fakes::Work& work = notes().work.front();
    EXPECT_TRUE(work.fill);
    EXPECT_EQ(work.zero, zero);
    EXPECT_EQ(work.accesses[0].address, address);
    EXPECT_EQ(work.accesses[0].bytes, bytes);
    EXPECT_EQ(work.stream, stream);
    EXPECT_EQ(work.flavor, flavor);
    fakes::reset();
  }
};

TEST_F(FillHooks, ElsewhereTheyPass) {
  hook_cuMemsetD8Async(kOther, 0, 4096, kStream);
  hook_cuMemsetD2D32_v2(kOther, 4096, 0, 10, 10);
  EXPECT_THAT(notes().work, IsEmpty());
  EXPECT_THAT(notes().names(), ElementsAre("cuMemsetD8Async", "cuMemsetD2D32_v2"));
}

TEST_F(FillHooks, CountsAreElements) {
  hook_cuMemsetD8_v2(kPool, 0, 100);
  expect_fill(kPool, 100, true, nullptr, StreamFlavor::kLegacy);
  hook_cuMemsetD16Async_ptsz(kPool, 1, 100, kStream);
  expect_fill(kPool, 200, false, kStream, StreamFlavor::kPerThread);
  hook_cuMemsetD32_v2_ptds(kPool + 4, 0, 100);
  expect_fill(kPool + 4, 400, true, nullptr, StreamFlavor::kPerThread);
  hook_cuMemsetD32Async(kPool, 0x80000000u, 100, kStream);
  expect_fill(kPool, 400, false, kStream, StreamFlavor::kLegacy);
}

TEST_F(FillHooks, ADroppedFillIsNotSubmitted) {
  notes().drop_zero_fills = true;
  EXPECT_EQ(hook_cuMemsetD8Async(kPool, 0, 4096, kStream), CUDA_SUCCESS);
  EXPECT_THAT(notes().calls, IsEmpty());
}

TEST_F(FillHooks, AdjoiningRowsAreOneFill) {
  hook_cuMemsetD2D32Async(kPool, 40, 0, 10, 7, kStream);
  expect_fill(kPool, 280, true, kStream, StreamFlavor::kLegacy);
  hook_cuMemsetD2D8_v2(kPool, 4096, 0, 10, 1);
  expect_fill(kPool, 10, true, nullptr, StreamFlavor::kLegacy);
}

TEST_F(FillHooks, RowsWithGapsAreNeverDropped) {
  notes().drop_zero_fills = true;
  hook_cuMemsetD2D16_v2(kPool, 100, 0, 10, 3);
  ASSERT_EQ(notes().work.size(), 1u);
  EXPECT_FALSE(notes().work[0].fill);
  EXPECT_EQ(notes().work[0].accesses[0].bytes, 220u);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemsetD2D16_v2"));
}

TEST_F(FillHooks, CountsThatOverflowReachTheDriver) {
  notes().driver_result = CUDA_ERROR_INVALID_VALUE;
  EXPECT_EQ(hook_cuMemsetD32_v2(kPool, 1, SIZE_MAX / 2), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(notes().work[0].accesses[0].bytes, SIZE_MAX);
}

TEST_F(FillHooks, SyncMemopsPoolsAreWaitedFor) {
  hook_cuMemsetD8_v2(kPool, 1, 100);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemsetD8_v2"));
  const unsigned int on = 1;
  const unsigned int off = 0;
  hook_cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, kPool);
  fakes::reset();
  hook_cuMemsetD8_v2_ptds(kPool, 1, 100);
  EXPECT_THAT(notes().names(), ElementsAre("cuMemsetD8_v2_ptds", "cuStreamSynchronize"));
  EXPECT_EQ(notes().calls.back().arguments[0],
            reinterpret_cast<std::uintptr_t>(CU_STREAM_PER_THREAD));
  hook_cuPointerSetAttribute(&off, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, kPool);
}

TEST_F(FillHooks, WrittenStreamWordsAreFourOrEightBytes) {
  hook_cuStreamWriteValue32_v2(kStream, kPool, 1, 0);
  hook_cuStreamWriteValue64_v2_ptsz(kStream, kPool + 8, 1, 0);
  hook_cuStreamWriteValue64(kStream, kOther, 1, 0);
  ASSERT_EQ(notes().work.size(), 2u);
  EXPECT_EQ(notes().work[0].accesses[0].bytes, 4u);
  EXPECT_TRUE(notes().work[0].accesses[0].writes);
  EXPECT_EQ(notes().work[1].accesses[0].bytes, 8u);
  EXPECT_EQ(notes().work[1].flavor, StreamFlavor::kPerThread);
}

TEST_F(FillHooks, EveryWaitForAWordIsToldToTheGateFirst) {
  hook_cuStreamWaitValue32(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue32_ptsz(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue32_v2(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue32_v2_ptsz(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue64(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue64_ptsz(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue64_v2(kStream, kOther, 1, 0);
  hook_cuStreamWaitValue64_v2_ptsz(kStream, kOther, 1, 0);
  ASSERT_EQ(notes().calls.size(), 16u);
  for (std::size_t i = 0; i < notes().calls.size(); i += 2) {
    EXPECT_EQ(notes().calls[i].name, "before_wait");
    EXPECT_NE(notes().calls[i + 1].name, "before_wait");
  }
  EXPECT_THAT(notes().work, IsEmpty());
}

// Were it pool work, pool work that writes the word would be ordered behind the wait.
TEST_F(FillHooks, APoolWhoseWordIsAwaitedEscapesAndTheWaitIsNoPoolWork) {
  hook_cuStreamWaitValue64_v2_ptsz(kStream, kPool + 8, 1, 0);
  EXPECT_THAT(notes().escaped, ElementsAre(kPool + 8));
  EXPECT_THAT(notes().work, IsEmpty());
  EXPECT_THAT(notes().names(), ElementsAre("before_wait", "cuStreamWaitValue64_v2_ptsz"));
  EXPECT_TRUE(notes().calls[1].retried);
}

TEST_F(FillHooks, BatchedStreamWordsNameOnlyPools) {
  std::array<CUstreamBatchMemOpParams, 3> operations = {};
  operations[0].writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_64, kPool, {.value64 = 1}, 0, 0};
  operations[1].writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_32, kOther, {.value = 1}, 0, 0};
  operations[2].flushRemoteWrites = {CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES, 0};
  hook_cuStreamBatchMemOp_v2(kStream, 3, operations.data(), 0);
  ASSERT_EQ(notes().work.size(), 1u);
  ASSERT_EQ(notes().work[0].accesses.size(), 1u);
  EXPECT_TRUE(notes().work[0].accesses[0].writes);
  EXPECT_EQ(notes().work[0].accesses[0].bytes, 8u);
  hook_cuStreamBatchMemOp(kStream, 1, &operations[1], 0);
  EXPECT_EQ(notes().work.size(), 1u);
  EXPECT_THAT(notes().names(), ElementsAre("cuStreamBatchMemOp_v2", "cuStreamBatchMemOp"));
}

TEST_F(FillHooks, ABatchWithOneWaitIsAWait) {
  std::array<CUstreamBatchMemOpParams, 3> operations = {};
  operations[0].writeValue = {CU_STREAM_MEM_OP_WRITE_VALUE_64, kPool, {.value64 = 1}, 0, 0};
  operations[1].waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, kOther, {.value = 1}, 0, 0};
  operations[2].waitValue = {CU_STREAM_MEM_OP_WAIT_VALUE_32, kPool + 64, {.value = 1}, 0, 0};
  const auto waits = [&](CUresult (*hook)(CUstream, unsigned, CUstreamBatchMemOpParams*, unsigned),
                         const char* name) {
    hook(kStream, 3, operations.data(), 0);
    EXPECT_THAT(notes().work, IsEmpty());
    EXPECT_THAT(notes().escaped, ElementsAre(kPool, kPool + 64));
    ASSERT_EQ(notes().waited_for.size(), 2u);
    EXPECT_TRUE(notes().waited_for[0].writes);
    EXPECT_THAT(notes().names(), ElementsAre("before_wait", name));
    fakes::reset();
  };
  waits(hook_cuStreamBatchMemOp, "cuStreamBatchMemOp");
  waits(hook_cuStreamBatchMemOp_ptsz, "cuStreamBatchMemOp_ptsz");
  waits(hook_cuStreamBatchMemOp_v2, "cuStreamBatchMemOp_v2");
  waits(hook_cuStreamBatchMemOp_v2_ptsz, "cuStreamBatchMemOp_v2_ptsz");
}

}  // namespace
}  // namespace kvshim::preload
