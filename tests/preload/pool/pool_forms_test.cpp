// Every form of copy, fill and word writes and reads a pool as it does ordinary
// memory.
#include <algorithm>
#include <array>
#include <functional>
#include <string>

#include "pool_fixture.h"

namespace kvshim::preload {
namespace {

/// What a form works with: the memory under test, and helpers outside of it.
struct Ground {
  CUdeviceptr memory;     // kPlainBytes of it are compared
  CUdeviceptr elsewhere;  // 1 MiB of device memory holding the same pattern as `host`
  std::uint8_t* host;     // 1 MiB of pattern
  CUstream stream;
  CUcontext context;
};

struct Form {
  const char* name;
  std::function<CUresult(const Ground&)> run;
};

// Not at the start of a granule, across the border of two.
constexpr std::size_t kAt = 4 * kMiB - 12345;
constexpr std::size_t kLength = 300 * 1000;

CUDA_MEMCPY2D plane(CUdeviceptr to, CUmemorytype to_type, std::uint64_t from,
                    CUmemorytype from_type) {
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = from_type;
  copy.srcHost = reinterpret_cast<const void*>(from);
  copy.srcDevice = from;
  copy.srcPitch = 1024;
  copy.srcXInBytes = 7;
  copy.dstMemoryType = to_type;
  copy.dstDevice = to;
  copy.dstPitch = 8192;
  copy.dstXInBytes = 100;
  copy.dstY = 3;
  copy.WidthInBytes = 900;
  copy.Height = 600;
  return copy;
}

template <class Description>
Description box(CUdeviceptr to, CUmemorytype to_type, std::uint64_t from, CUmemorytype from_type) {
  Description copy = {};
  copy.srcMemoryType = from_type;
  copy.srcHost = reinterpret_cast<const void*>(from);
  copy.srcDevice = from;
  copy.srcPitch = 512;
  copy.srcHeight = 40;
  copy.dstMemoryType = to_type;
  copy.dstDevice = to;
  copy.dstPitch = 4096;
  copy.dstHeight = 100;
  copy.dstXInBytes = 5;
  copy.dstZ = 1;
  copy.WidthInBytes = 500;
  copy.Height = 30;
  copy.Depth = 10;
  return copy;
}

CUmemcpyAttributes stream_order() {
  CUmemcpyAttributes attributes = {};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  return attributes;
}

std::uint64_t word(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

const std::vector<Form>& writing_forms() {
  static const std::vector<Form> forms = {
      {"HtoD", [](const Ground& g) { return cuMemcpyHtoD_v2(g.memory + kAt, g.host, kLength); }},
      {"HtoD_ptds",
       [](const Ground& g) { return cuMemcpyHtoD_v2_ptds(g.memory + kAt, g.host, kLength); }},
      {"HtoDAsync",
       [](const Ground& g) {
         return cuMemcpyHtoDAsync_v2(g.memory + kAt, g.host, kLength, g.stream);
       }},
      {"HtoDAsync_ptsz",
       [](const Ground& g) {
         return cuMemcpyHtoDAsync_v2_ptsz(g.memory + kAt, g.host, kLength, g.stream);
       }},
      {"DtoD",
       [](const Ground& g) { return cuMemcpyDtoD_v2(g.memory + kAt, g.elsewhere, kLength); }},
      {"DtoDAsync",
       [](const Ground& g) {
         return cuMemcpyDtoDAsync_v2(g.memory + kAt, g.elsewhere, kLength, g.stream);
       }},
      {"DtoDInside",
       [](const Ground& g) {
         const CUresult first = cuMemcpyHtoD_v2(g.memory + kAt, g.host, kLength);
         return first != CUDA_SUCCESS
                    ? first
                    : cuMemcpyDtoD_v2(g.memory + 9 * kMiB, g.memory + kAt, kLength);
       }},
      {"UnifiedFromHost",
       [](const Ground& g) { return cuMemcpy(g.memory + kAt, word(g.host), kLength); }},
      {"UnifiedFromDevice_ptds",
       [](const Ground& g) { return cuMemcpy_ptds(g.memory + kAt, g.elsewhere, kLength); }},
      {"UnifiedAsync",
       [](const Ground& g) {
         return cuMemcpyAsync(g.memory + kAt, word(g.host), kLength, g.stream);
       }},
      {"UnifiedAsync_ptsz",
       [](const Ground& g) {
         return cuMemcpyAsync_ptsz(g.memory + kAt, g.elsewhere, kLength, g.stream);
       }},
      {"Peer",
       [](const Ground& g) {
         return cuMemcpyPeer(g.memory + kAt, g.context, g.elsewhere, g.context, kLength);
       }},
      {"PeerAsync",
       [](const Ground& g) {
         return cuMemcpyPeerAsync(g.memory + kAt, g.context, g.elsewhere, g.context, kLength,
                                  g.stream);
       }},
      {"2D",
       [](const Ground& g) {
         const auto copy =
             plane(g.memory + kAt, CU_MEMORYTYPE_DEVICE, word(g.host), CU_MEMORYTYPE_HOST);
         return cuMemcpy2D_v2(&copy);
       }},
      {"2DUnified",
       [](const Ground& g) {
         const auto copy =
             plane(g.memory + kAt, CU_MEMORYTYPE_UNIFIED, g.elsewhere, CU_MEMORYTYPE_UNIFIED);
         return cuMemcpy2DUnaligned_v2(&copy);
       }},
      {"2DAsync",
       [](const Ground& g) {
         const auto copy =
             plane(g.memory + kAt, CU_MEMORYTYPE_DEVICE, g.elsewhere, CU_MEMORYTYPE_DEVICE);
         return cuMemcpy2DAsync_v2(&copy, g.stream);
       }},
      {"3D",
       [](const Ground& g) {
         const auto copy = box<CUDA_MEMCPY3D>(g.memory + kAt, CU_MEMORYTYPE_DEVICE, word(g.host),
                                              CU_MEMORYTYPE_HOST);
         return cuMemcpy3D_v2(&copy);
       }},
      {"3DAsync",
       [](const Ground& g) {
         const auto copy = box<CUDA_MEMCPY3D>(g.memory + kAt, CU_MEMORYTYPE_UNIFIED, g.elsewhere,
                                              CU_MEMORYTYPE_DEVICE);
         return cuMemcpy3DAsync_v2(&copy, g.stream);
       }},
      {"3DPeer",
       [](const Ground& g) {
         auto copy = box<CUDA_MEMCPY3D_PEER>(g.memory + kAt, CU_MEMORYTYPE_DEVICE, g.elsewhere,
                                             CU_MEMORYTYPE_DEVICE);
         copy.srcContext = copy.dstContext = g.context;
         return cuMemcpy3DPeer(&copy);
       }},
      {"Batch",
       [](const Ground& g) {
         std::array<CUdeviceptr, 2> to = {g.memory + kAt, g.memory + 9 * kMiB};
         std::array<CUdeviceptr, 2> from = {word(g.host), g.elsewhere};
         std::array<std::size_t, 2> sizes = {kLength, kLength};
         CUmemcpyAttributes attributes = stream_order();
         std::size_t start = 0;
         return cuMemcpyBatchAsync_v2_ptsz(to.data(), from.data(), sizes.data(), 2, &attributes,
                                           &start, 1, g.stream);
       }},
      {"3DBatch",
       [](const Ground& g) {
         CUDA_MEMCPY3D_BATCH_OP copy = {};
         copy.src.type = copy.dst.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
         copy.src.op.ptr.ptr = g.elsewhere;
         copy.dst.op.ptr.ptr = g.memory + kAt;
         copy.dst.op.ptr.rowLength = 4096;
         copy.dst.op.ptr.layerHeight = 50;
         copy.extent = {500, 30, 10};
         copy.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
         return cuMemcpy3DBatchAsync_v2_ptsz(1, &copy, 0, g.stream);
       }},
      {"D8", [](const Ground& g) { return cuMemsetD8_v2(g.memory + kAt, 0xab, kLength); }},
      {"D16",
       [](const Ground& g) { return cuMemsetD16_v2_ptds(g.memory + kAt + 1, 0xabcd, kLength); }},
      {"D32Async",
       [](const Ground& g) {
         return cuMemsetD32Async(g.memory + 4 * kMiB - 4096, 0x12345678, kLength, g.stream);
       }},
      {"D8Async_ptsz",
       [](const Ground& g) {
         return cuMemsetD8Async_ptsz(g.memory + kAt, 0x17, kLength, g.stream);
       }},
      {"ZerosOverOldBytes",
       [](const Ground& g) {
         const CUresult first = cuMemsetD8Async(g.memory + kAt, 0xff, kLength, g.stream);
         return first != CUDA_SUCCESS ? first
                                      : cuMemsetD8Async(g.memory + kAt + 100, 0, 1000, g.stream);
       }},
      {"ZerosAroundOldBytes",
       [](const Ground& g) {
         const CUresult first = cuMemsetD8_v2(g.memory + kAt, 0xff, kLength);
         return first != CUDA_SUCCESS ? first : cuMemsetD2D8_v2(g.memory + kAt, 4096, 0, 1000, 50);
       }},
      {"D2D32",
       [](const Ground& g) {
         return cuMemsetD2D32_v2(g.memory + 4 * kMiB - 4096, 4096, 7, 100, 100);
       }},
      {"D2D16Async",
       [](const Ground& g) {
         return cuMemsetD2D16Async(g.memory + 4 * kMiB - 4096, 4096, 9, 100, 100, g.stream);
       }},
      {"WriteValue32",
       [](const Ground& g) {
         return cuStreamWriteValue32_v2(g.stream, g.memory + 6 * kMiB + 4, 0x01020304, 0);
       }},
      {"WriteValue64",
       [](const Ground& g) {
         return cuStreamWriteValue64_v2(g.stream, g.memory + 6 * kMiB + 8, 0x0102030405060708, 0);
       }},
      {"BatchMemOp",
       [](const Ground& g) {
         std::array<CUstreamBatchMemOpParams, 2> words = {};
         for (std::size_t i = 0; i < words.size(); ++i) {
           words[i].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
           words[i].writeValue.address = g.memory + (2 + 4 * i) * kMiB;
           words[i].writeValue.value = 0x55;
         }
         return cuStreamBatchMemOp_v2(g.stream, 2, words.data(), 0);
       }},
  };
  return forms;
}

class PoolForms : public PoolTest {
 protected:
  void SetUp() override {
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    pattern_.resize(kMiB);
    for (std::size_t i = 0; i < pattern_.size(); ++i) {
      pattern_[i] = static_cast<std::uint8_t>(1 + (i * 131 + i / 251) % 255);
    }
    ASSERT_EQ(cuMemAlloc_v2(&elsewhere_, kMiB), CUDA_SUCCESS);
    ASSERT_EQ(cuMemcpyHtoD_v2(elsewhere_, pattern_.data(), kMiB), CUDA_SUCCESS);
  }

  void TearDown() override {
    if (elsewhere_ != 0) {
      EXPECT_EQ(cuMemFree_v2(elsewhere_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }

  Ground on(CUdeviceptr memory) { return {memory, elsewhere_, pattern_.data(), stream_, context_}; }

  std::vector<std::uint8_t> pattern_;
  CUdeviceptr elsewhere_ = 0;
};

TEST_F(PoolForms, EveryWritingFormLeavesTheSameBytes) {
  for (const Form& form : writing_forms()) {
    // A fresh pool and zeroed plain memory for each.
    ASSERT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8_v2(plain_, 0, kPlainBytes), CUDA_SUCCESS);
    // A synchronous fill of device memory may still run when it returns, and the
    // stream does not wait for the legacy one.
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ASSERT_EQ(form.run(on(plain_)), CUDA_SUCCESS) << form.name;
    EXPECT_EQ(form.run(on(pool_)), CUDA_SUCCESS) << form.name;
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS) << form.name;
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS) << form.name;
    const auto expected = contents(plain_, kPlainBytes);
    EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](auto b) { return b != 0; }))
        << form.name << " wrote nothing";
    EXPECT_TRUE(expected == contents(pool_, kPlainBytes)) << form.name;
  }
}

TEST_F(PoolForms, EveryReadingFormSeesTheBytesAndZerosAroundThem) {
  ASSERT_EQ(cuMemcpyHtoD_v2(plain_ + kAt, pattern_.data(), kLength), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyHtoD_v2(pool_ + kAt, pattern_.data(), kLength), CUDA_SUCCESS);
  constexpr std::size_t kFrom = kAt - 5000;
  constexpr std::size_t kBytes = kLength + 10000;
  using Read = std::function<CUresult(CUdeviceptr, void*)>;
  const std::vector<std::pair<const char*, Read>> forms = {
      {"DtoH", [&](CUdeviceptr m, void* h) { return cuMemcpyDtoH_v2(h, m + kFrom, kBytes); }},
      {"DtoHAsync",
       [&](CUdeviceptr m, void* h) { return cuMemcpyDtoHAsync_v2(h, m + kFrom, kBytes, stream_); }},
      {"Unified", [&](CUdeviceptr m, void* h) { return cuMemcpy(word(h), m + kFrom, kBytes); }},
      {"UnifiedAsync_ptsz",
       [&](CUdeviceptr m, void* h) {
         return cuMemcpyAsync_ptsz(word(h), m + kFrom, kBytes, stream_);
       }},
      {"2D",
       [&](CUdeviceptr m, void* h) {
         CUDA_MEMCPY2D copy = {};
         copy.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
         copy.srcDevice = m + kFrom;
         copy.srcPitch = 1000;
         copy.dstMemoryType = CU_MEMORYTYPE_HOST;
         copy.dstHost = h;
         copy.dstPitch = 1000;
         copy.WidthInBytes = 999;
         copy.Height = 300;
         return cuMemcpy2D_v2(&copy);
       }},
  };
  for (const auto& [name, read] : forms) {
    std::vector<std::uint8_t> expected(kBytes, 0xcc);
    std::vector<std::uint8_t> seen(kBytes, 0xcc);
    ASSERT_EQ(read(plain_, expected.data()), CUDA_SUCCESS) << name;
    EXPECT_EQ(read(pool_, seen.data()), CUDA_SUCCESS) << name;
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    EXPECT_TRUE(expected == seen) << name;
  }
}

TEST_F(PoolForms, AWaitOnAPoolsWordEnds) {
  ASSERT_EQ(cuStreamWaitValue32_v2(stream_, pool_ + kMiB, 0, CU_STREAM_WAIT_VALUE_EQ),
            CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS) << "absent memory reads as zero";
  ASSERT_EQ(cuStreamWriteValue32_v2(stream_, pool_ + kMiB, 5, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitValue32_v2(stream_, pool_ + kMiB, 5, CU_STREAM_WAIT_VALUE_EQ),
            CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
}

TEST_F(PoolForms, ErrorsAreThoseOfOrdinaryMemory) {
  // Past the end by far, with the same result on both.
  std::vector<std::uint8_t> host(4096);
  EXPECT_EQ(cuMemcpyDtoH_v2(host.data(), pool_ + kMiB, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemcpy2D_v2(nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(pool_ + 4096), cuMemFree_v2(plain_ + 4096));
}

}  // namespace
}  // namespace kvshim::preload
