// The marks' own source on the host: which granules of a pool a block table names.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>
#include <vector>

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

using Granules = std::set<std::uint32_t>;
using Ids = std::vector<std::int32_t>;

class MarkTest : public ::testing::Test {
 protected:
  /// Blocks of half a granule, keys from the pool's start and values from its middle; 16
  /// tokens a block. Rows of `width` ids.
  TableRead read_of(const Ids& ids, std::uint32_t width, const Ids* lengths = nullptr) const {
    TableRead read{};
    read.ids = reinterpret_cast<std::uint64_t>(ids.data());
    read.row_stride = width * sizeof(std::int32_t);
    read.rows = static_cast<std::uint32_t>(ids.size()) / width;
    read.entries = width;
    read.block = 16;
    if (lengths != nullptr) read.lengths = reinterpret_cast<std::uint64_t>(lengths->data());
    constexpr std::uint64_t kBlock = kGranuleBytes / 2;
    for (const std::uint64_t begin : {std::uint64_t{0}, kMiddle * kGranuleBytes}) {
      read.part[read.parts++] = {pool_->base + begin, kBlock, kBlock, pool_->base,
                                 pool_->base + pool_->mapped_bytes};
    }
    return read;
  }
  void mark(const TableRead& read, std::uint32_t asked = 1) {
    ASSERT_EQ(kernels().launch_mark(kernels().stream(), read, asked), CUDA_SUCCESS);
    ASSERT_TRUE(bench_.driver.drain(kernels().stream()));
  }
  /// What was marked since the last call, as offsets in the pool.
  Granules taken() {
    EXPECT_EQ(kernels().launch_take(), CUDA_SUCCESS);
    EXPECT_TRUE(bench_.driver.drain(kernels().stream()));
    Granules found;
    const auto words = kernels().marks_taken();
    for (GranuleIndex g = 0; g < words.size() * 32; ++g) {
      if ((words[g / 32] >> (g % 32) & 1u) != 0) found.insert(g - bench_.granule(pool_, 0));
    }
    return found;
  }
  DeviceKernels& kernels() { return bench_.memory->kernels(); }

  static constexpr std::uint64_t kMiddle = 32;
  MemoryBench bench_;
  const PoolRecord* pool_ = bench_.pool(64 * kGranuleBytes);
};

TEST_F(MarkTest, KeysAndValuesOfEachBlockAreMarkedOnce) {
  const Ids ids = {0, 1, 7, 40, 7, 0};
  mark(read_of(ids, 3));
  EXPECT_EQ(taken(), (Granules{0, 3, 20, 32, 35, 52}));
  EXPECT_EQ(taken(), Granules{}) << "taken is taken";
}

TEST_F(MarkTest, OnlyAsManyIdsAsTheSequenceIsLong) {
  const Ids ids = {2, 4, 6, 8, 10, 12, 14, 16, 18};
  const Ids lengths = {17, 0, 400};
  mark(read_of(ids, 3, &lengths));
  EXPECT_EQ(taken(), (Granules{1, 2, 33, 34, 7, 8, 9, 39, 40, 41}));
  const Ids negative = {-5, -1, 16};
  mark(read_of(ids, 3, &negative));
  EXPECT_EQ(taken(), (Granules{7, 39}));
}

// The reader doesn't look there either: it may be no memory at all.
TEST_F(MarkTest, NothingBehindTheLastIdOfASequenceIsRead) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  auto* memory = static_cast<char*>(
      mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  ASSERT_EQ(mprotect(memory + page, page, PROT_NONE), 0);
  auto* ids = reinterpret_cast<std::int32_t*>(memory + page) - 2;
  ids[0] = 4;
  ids[1] = 6;
  const Ids lengths = {32};
  TableRead read = read_of({}, 1, &lengths);
  read.ids = reinterpret_cast<std::uint64_t>(ids);
  read.rows = 1;
  read.entries = 1000;
  mark(read);
  EXPECT_EQ(taken(), (Granules{2, 3, 34, 35}));
  munmap(memory, 2 * page);
}

TEST_F(MarkTest, IdsOfNoBlockOfThePoolAreSkipped) {
  const Ids ids = {-1, INT32_MIN, 63, 64, 127, 128, INT32_MAX};
  TableRead read = read_of(ids, 7);
  read.parts = 1;
  mark(read);
  EXPECT_EQ(taken(), (Granules{31, 32, 63}));
  read.part[0].block_stride = UINT64_MAX / 2;  // wraps around
  mark(read);
  EXPECT_EQ(taken(), Granules{});
}

TEST_F(MarkTest, InAGraphItLeavesWhenNobodyAsks) {
  const Ids ids = {0, 1};
  mark(read_of(ids, 2), 0);
  EXPECT_EQ(taken(), Granules{});
  EXPECT_EQ(kernels().mark_channel()->answered, 0u);
  kernels().mark_channel()->asked = 7;
  mark(read_of(ids, 2), 0);
  EXPECT_EQ(taken(), (Granules{0, 32}));
  EXPECT_EQ(kernels().mark_channel()->answered, 7u);
}

TEST_F(MarkTest, OutsideOneItAnswersWhatItWasLaunchedFor) {
  const Ids ids = {0, 1};
  mark(read_of(ids, 2), 5);
  EXPECT_EQ(taken(), (Granules{0, 32}));
  EXPECT_EQ(kernels().mark_channel()->answered, 5u);
}

TEST_F(MarkTest, OfSiblingsOneIsMarked) {
  const PoolRecord* sibling = bench_.pool(64 * kGranuleBytes);
  const PoolRecord* other = bench_.pool(64 * kGranuleBytes, "other");
  EXPECT_TRUE(bench_.memory->reads_are_marked(sibling->id)) << "whose reader comes first";
  EXPECT_FALSE(bench_.memory->reads_are_marked(pool_->id));
  EXPECT_TRUE(bench_.memory->reads_are_marked(sibling->id));
  EXPECT_TRUE(bench_.memory->reads_are_marked(other->id));
  EXPECT_FALSE(bench_.memory->reads_are_marked(999));
  ASSERT_EQ(bench_.memory->free(sibling->base), CUDA_SUCCESS);
  EXPECT_TRUE(bench_.memory->reads_are_marked(pool_->id));
}

}  // namespace
}  // namespace kvshim::vmm::testing
