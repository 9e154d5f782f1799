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

  /// A reader's table of one sequence: block b is granule b of the layer. `ids` outlive it.
  static TableRead table_of(const PoolRecord* layer, const std::vector<std::int32_t>& ids) {
    TableRead table{};
    table.ids = reinterpret_cast<std::uint64_t>(ids.data());
    table.rows = table.block = table.parts = 1;
    table.entries = static_cast<std::uint32_t>(ids.size());
    table.part[0] = {layer->base, kGranuleBytes, kGranuleBytes, layer->base,
                     layer->base + layer->mapped_bytes};
    return table;
  }

  std::vector<const PoolRecord*> layers;
  std::map<std::uint32_t, std::uint64_t> rounds;
};

/// Nothing comes back before the first work; beside work it comes however short that is.
inline ReleaseSettings soon_idle() {
  ReleaseSettings settings;
  settings.idle_timeout = 150ms;
  settings.restore_time = 0ms;
  settings.prefetch = true;
  settings.short_spell = 0ms;
  return settings;
}
inline ReleaseSettings idle_in_an_hour() {
  ReleaseSettings settings = soon_idle();
  settings.idle_timeout = 1h;
  return settings;
}

}  // namespace kvshim::vmm::testing
