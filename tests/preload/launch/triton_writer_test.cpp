// A writer whose form depends on the cache's layout: vLLM's Triton kernel.
#include <vector>

#include "preload/launch.h"
#include "tests/preload/launch/graph_fixture.h"

namespace kvshim::preload::testing {
namespace {

class TritonWriter : public Graph {
 protected:
  TritonWriter() {
    triton_writer_ = driver().add_function(0x1500, "reshape_and_cache_kernel_flash",
                                           std::vector<std::size_t>(16, 8));
  }
  /// 2 heads of 64 elements of two bytes, blocks of 16 tokens. K and V of a head lie
  /// together (`to_values` is 64), or each in a half of the pool.
  static Arguments triton_arguments(std::uint64_t to_values, std::uint64_t keys = kPoolBase) {
    const bool together = to_values == 64;
    const std::int64_t row = together ? 128 : 64;
    Arguments arguments;
    arguments.add(kElsewhere).add(kElsewhere + 0x1000);  // key, value
    arguments.add(keys).add(keys + to_values * 2);       // key_cache, value_cache
    arguments.add(kElsewhere + 0x2000);                  // slot_mapping
    arguments.add(kElsewhere + 0x3000).add(kElsewhere + 0x4000);
    arguments.add(std::int64_t{128}).add(std::int64_t{128});             // key, value stride
    arguments.add(16 * 2 * row).add(row);                                // block, head stride
    arguments.add(std::int64_t{0}).add(std::int64_t{0});                 // between dimensions
    arguments.add(2 * row).add(std::uint64_t{0}).add(std::uint64_t{0});  // page stride, scratch
    return arguments;
  }
  void expect_guarded(const FakeGate::Work& work, std::uint64_t keys) {
    ASSERT_TRUE(work.linear.has_value());
    const vmm::LinearWrite& write = *work.linear;
    EXPECT_EQ(write.slots, kElsewhere + 0x2000);
    EXPECT_EQ(write.slot_bytes, 8u);
    EXPECT_EQ(write.count, 37u);
    EXPECT_EQ(write.block, 16u);
    ASSERT_EQ(write.destinations, 2u);
    for (std::uint32_t i = 0; i < 2; ++i) {
      EXPECT_EQ(write.destination[i].base, keys + i * 128);
      EXPECT_EQ(write.destination[i].block_stride, 8192u);
      EXPECT_EQ(write.destination[i].slot_stride, 512u);
      EXPECT_EQ(write.destination[i].length, 256u + 128u);
      EXPECT_EQ(write.destination[i].pool_begin, kPoolBase);
      EXPECT_EQ(write.destination[i].pool_end, kPoolBase + kPoolBytes);
    }
    EXPECT_EQ(AccessList{work.accesses}, (AccessList{{{kPoolBase, kPoolBytes, false}}}));
  }

  CUfunction triton_writer_ = nullptr;
};

TEST_F(TritonWriter, BecomesTheLinearFormWhereTheStridesTellTheLayout) {
  // A later layer of a pool that all layers share.
  const std::uint64_t layer = kPoolBase + 10 * kMiB;
  EXPECT_EQ(launch(triton_writer_, triton_arguments(64, layer), 37), CUDA_SUCCESS);
  ASSERT_EQ(gate().work.size(), 1u);
  expect_guarded(gate().work[0], layer);
  EXPECT_TRUE(gate().unknown.empty());
  EXPECT_EQ(driver().launches.size(), 1u);
}

TEST_F(TritonWriter, MakesThePoolPresentFromKAndVOnWhereTheyDoNot) {
  const std::uint64_t keys = kPoolBase + kMiB;
  launch(triton_writer_, triton_arguments(kPoolBytes / 4, keys), 37);
  ASSERT_EQ(gate().work.size(), 1u);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  EXPECT_EQ(AccessList{gate().work[0].accesses},
            (AccessList{{{keys, kPoolBytes - kMiB, true},
                         {keys + kPoolBytes / 2, kPoolBytes / 2 - kMiB, true}}}));
  ASSERT_EQ(gate().unknown.size(), 1u);
  EXPECT_EQ(gate().unknown[0].name, "reshape_and_cache_kernel_flash");
}

TEST_F(TritonWriter, IsJudgedAnewAtEachLaunch) {
  launch(triton_writer_, triton_arguments(kPoolBytes / 4), 37);
  launch(triton_writer_, triton_arguments(64), 37);
  ASSERT_EQ(gate().work.size(), 2u);
  EXPECT_FALSE(gate().work[0].linear.has_value());
  expect_guarded(gate().work[1], kPoolBase);
}

TEST_F(TritonWriter, HasItsGuardInACapture) {
  begin();
  launch(triton_writer_, triton_arguments(64), 37, kStream);
  end();
  ASSERT_EQ(gate().work.size(), 1u);
  expect_guarded(gate().work[0], kPoolBase);
}

}  // namespace
}  // namespace kvshim::preload::testing
