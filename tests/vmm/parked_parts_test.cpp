// An extent of GPU memory that is parked in parts.
#include <gtest/gtest.h>

#include "tests/vmm/layers_bench.h"

namespace kvshim::vmm::testing {
namespace {

// 24 layers: 32 MiB are parked as four times 8.
TEST(PartsTest, AnExtentIsParkedInPartsAndComesBackAsOne) {
  LayersBench bench(24, 64);
  bench.park_merged();
  bench.bring_back(bench.memory->blocks_to_return());
  const PoolRecord* const layer = bench.layers[5];
  ASSERT_EQ(bench.extent_granules(layer, 16), 16u);
  bench.park_merged();
  for (const std::uint32_t offset : {16u, 20u, 24u, 28u}) {
    EXPECT_EQ(bench.extent_granules(layer, offset), 4u);
  }
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_EQ(bench.figures(layer).parked, 64 * kGranuleBytes);
  bench.expect_contents();
  bench.bring_back(bench.memory->blocks_to_return());
  EXPECT_EQ(bench.extent_granules(layer, 16), 16u);
  EXPECT_EQ(bench.memory->host_in_use(), 0u);
  bench.expect_contents();
}

TEST(PartsTest, APartThatTheDriverDoesNotMapLeavesTheExtentAsItWas) {
  for (const Call call : {Call::cuMemMap, Call::cuMemSetAccess}) {
    for (const std::uint64_t nth : {1u, 2u, 4u}) {
      SCOPED_TRACE(std::to_string(static_cast<int>(call)) + " " + std::to_string(nth));
      LayersBench bench(24, 48);
      bench.park_merged();
      bench.bring_back(bench.memory->blocks_to_return());
      const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
      const ExtentName block = blocks.back();
      ASSERT_EQ(block.order, 4);
      PreparedPark prepared;
      ASSERT_EQ(bench.memory->prepare_park(block, &prepared), Preparation::kDone);
      ASSERT_EQ(prepared.parts.size(), 4u);
      bench.copy(prepared);
      bench.driver.fail(call, nth, CUDA_ERROR_UNKNOWN);
      EXPECT_FALSE(bench.memory->swap_to_parked(prepared, 1));
      bench.memory->cancel_park(prepared);
      EXPECT_EQ(bench.memory->host_in_use(), 0u);
      EXPECT_EQ(bench.memory->broken_invariant(), "");
      bench.expect_contents();
      bench.park_merged();
      EXPECT_EQ(bench.memory->physical().device, 0u);
      bench.expect_contents();
    }
  }
}

TEST(PartsTest, ASlabThatCannotBeMadeLeavesNoneTaken) {
  for (const Call call : {Call::cuMemCreate, Call::cuMemMap, Call::cuMemSetAccess}) {
    for (std::uint64_t nth = 1; nth <= 4; ++nth) {
      SCOPED_TRACE(std::to_string(static_cast<int>(call)) + " " + std::to_string(nth));
      LayersBench bench(24, 48);
      bench.park_merged();
      bench.bring_back(bench.memory->blocks_to_return());
      // All slabs that are there are taken.
      std::vector<PreparedPark> taken;
      const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
      const ExtentName last = blocks.back();
      ASSERT_EQ(last.order, 4);
      for (const ExtentName& block : blocks) {
        PreparedPark one;
        ASSERT_EQ(bench.memory->prepare_park(block, &one), Preparation::kDone);
        taken.push_back(one);
      }
      const std::uint64_t used = bench.memory->host_in_use();
      PreparedPark prepared;
      bench.driver.fail(call, nth, CUDA_ERROR_OUT_OF_MEMORY);
      EXPECT_EQ(bench.memory->prepare_park(last, &prepared),
                call == Call::cuMemCreate ? Preparation::kNoRoom : Preparation::kRefused);
      EXPECT_EQ(bench.memory->host_in_use(), used);
      bench.driver.fail_nothing();
      for (const PreparedPark& one : taken) bench.memory->cancel_park(one);
      EXPECT_EQ(bench.memory->broken_invariant(), "");
      bench.expect_contents();
    }
  }
}

TEST(PartsTest, WithoutHostMemoryForAllPartsNoneIsTaken) {
  LayersBench bench(24, 48, 24 * 48 * kGranuleBytes);
  bench.park_merged();
  bench.bring_back(bench.memory->blocks_to_return());
  const std::vector<ExtentName> blocks = bench.memory->blocks_to_park(bench.resident());
  std::vector<ExtentName> most(blocks.begin(), blocks.end() - 1);
  bench.park(most);
  const ExtentName last = blocks.back();
  ASSERT_EQ(last.order, 4);
  PreparedPark taken, prepared;
  // Of its four parts somebody else has one.
  const ExtentName other = bench.memory->blocks_to_park(bench.resident()).front();
  ASSERT_EQ(bench.memory->prepare_park(other, &taken), Preparation::kDone);
  const std::uint64_t used = bench.memory->host_in_use();
  EXPECT_EQ(bench.memory->prepare_park(last, &prepared), Preparation::kNoRoom);
  EXPECT_EQ(bench.memory->host_in_use(), used);
  bench.memory->cancel_park(taken);
  bench.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
