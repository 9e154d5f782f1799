// Layers of an engine whose rows were written once.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {

/// Sibling pools whose granules were made present by rows, one at a time.
class LayersBench : public MemoryBench {
 public:
  LayersBench(std::size_t pools, std::uint32_t rows, std::uint64_t host_budget = 8 * kGiB)
      : MemoryBench({.host_budget = host_budget, .read_ahead_max = kNoReadAhead}, 16 * kGiB),
        rows_(rows) {
    for (std::size_t i = 0; i < pools; ++i) layers.push_back(pool(2 * rows * kGranuleBytes));
    for (std::uint32_t row = 0; row < rows; ++row) {
      fault(layers[0], row);
      for (std::size_t i = 0; i < pools; ++i) write(layers[i], row, value(i, row));
    }
  }
  std::uint64_t value(std::size_t layer, std::uint32_t row) const { return 1 + layer * 1000 + row; }
  void expect_contents() const {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      for (std::uint32_t row = 0; row < rows_; ++row) {
        ASSERT_TRUE(holds(layers[i], row, value(i, row))) << "layer " << i << " row " << row;
      }
    }
  }
  std::uint64_t bytes() const { return layers.size() * rows_ * kGranuleBytes; }
  std::vector<const PoolRecord*> layers;

 private:
  const std::uint32_t rows_;
};

}  // namespace kvshim::vmm::testing
