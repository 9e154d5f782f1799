// Sibling pools that are written in rows, with what was written kept for comparison.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "tests/vmm/engine_bench.h"

namespace kvshim::vmm::testing {

/// Pools of 32 granules each.
class RowsBench : public EngineBench {
 public:
  static constexpr std::uint32_t kPoolRows = 32;
  explicit RowsBench(DeviceSettings settings, std::size_t count = 3) : EngineBench(settings) {
    for (std::size_t i = 0; i < count; ++i) layers.push_back(pool(kPoolRows * kGranuleBytes));
  }
  void write_rows(std::uint32_t begin, std::uint32_t end, std::uint64_t round) {
    for (std::uint32_t row = begin; row < end; ++row) {
      for (const PoolRecord* layer : layers) write_granules(layer, {row}, round * 100 + row);
      rounds[row] = round;
    }
    ASSERT_TRUE(driver.drain(stream));
  }
  void expect_contents() const {
    for (const auto& [row, round] : rounds) {
      for (const PoolRecord* layer : layers) {
        ASSERT_TRUE(holds(layer, row, round * 100 + row)) << "row " << row;
      }
    }
  }

  std::vector<const PoolRecord*> layers;
  std::map<std::uint32_t, std::uint64_t> rounds;
};

}  // namespace kvshim::vmm::testing
