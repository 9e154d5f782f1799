// Two sibling pools of which the first rows were written and parked.
#pragma once

#include <gtest/gtest.h>

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {

/// Rows 0 to 3, one granule of each pool.
class ParkedRowsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    pool_ = bench_.pool(100 * kMiB);
    sibling_ = bench_.pool(100 * kMiB);
    for (std::uint32_t g = 0; g < 4; ++g) {
      bench_.served(pool_, g);
      bench_.write(pool_, g, 100 + g);
      bench_.write(sibling_, g, 200 + g);
    }
    ASSERT_EQ(bench_.park_all(), 8u);
    ASSERT_EQ(bench_.memory->physical().device, 0u);
  }
  /// `written`: what row 2 of the first pool holds by now; 0: what it held.
  void expect_contents(std::uint64_t written = 0) {
    for (std::uint32_t g = 0; g < 4; ++g) {
      EXPECT_TRUE(bench_.holds(pool_, g, g == 2 && written != 0 ? written : 100 + g)) << g;
      EXPECT_TRUE(bench_.holds(sibling_, g, 200 + g)) << g;
    }
  }

  MemoryBench bench_{{.host_budget = kGiB, .read_ahead_max = kNoReadAhead}};
  const PoolRecord* pool_ = nullptr;
  const PoolRecord* sibling_ = nullptr;
};

}  // namespace kvshim::vmm::testing
