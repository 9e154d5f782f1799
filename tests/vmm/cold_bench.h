// Pools that are used now and then, and settings under which what is cold goes soon.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "tests/vmm/rows_bench.h"

namespace kvshim::vmm::testing {

/// Sibling pools that are written in rows, now and then.
class ColdBench : public RowsBench {
 public:
  static constexpr auto kLongestPause = 400ms;  // idle_timeout is longer than that
  using RowsBench::RowsBench;
  /// Rows of which every layer is in the state.
  std::set<std::uint32_t> rows_in(ExtentState state) const {
    std::map<std::uint32_t, std::size_t> count;
    for (const ExtentName& extent : memory->extents_in(state)) {
      for (std::uint32_t i = 0; i < order_granules(extent.order); ++i) ++count[extent.offset + i];
    }
    std::set<std::uint32_t> rows;
    for (const auto& [row, layers_there] : count) {
      if (layers_there == layers.size()) rows.insert(row);
    }
    return rows;
  }
  /// One row is written every 80 ms until the condition holds; more seldom on a machine
  /// that is too busy to do anything in between.
  bool traffic_until(const std::function<bool()>& done, std::uint32_t row = 20) {
    auto pause = 80ms;
    return eventually(
        [&] {
          if (reads) reads();
          write_rows(row, row + 1, ++traffic);
          std::this_thread::sleep_for(pause);
          pause = std::min(pause + pause / 8, std::chrono::milliseconds(kLongestPause));
          return done();
        },
        30s);
  }
  bool traffic_for(std::chrono::milliseconds time, std::uint32_t row = 20) {
    const auto end = std::chrono::steady_clock::now() + time;
    return traffic_until([&] { return std::chrono::steady_clock::now() > end; }, row);
  }
  bool bits_clear(std::uint32_t row) const {
    for (const PoolRecord* layer : layers) {
      if (bit(granule(layer, row))) return false;
    }
    return true;
  }
  const Statistics& statistics() const { return memory->statistics(); }
  std::uint64_t traffic = 100;
  std::function<void()> reads;  // a step's readers
};

using Rows = std::set<std::uint32_t>;

inline ReleaseSettings light() {
  ReleaseSettings settings;
  settings.idle_timeout = 1h;
  settings.restore_time = 5s;
  settings.cold_after = 200ms;
  return settings;
}

inline DeviceSettings plain(std::uint64_t host_budget = kGiB, Pressure* pressure = nullptr) {
  return {.host_budget = host_budget,
          .read_ahead_max = kNoReadAhead,
          .rows_ahead = false,
          .pressure = pressure};
}

}  // namespace kvshim::vmm::testing
