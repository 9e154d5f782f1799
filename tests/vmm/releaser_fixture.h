// A pool, an engine that writes it, and a releasing thread.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "tests/vmm/engine_bench.h"

namespace kvshim::vmm::testing {

inline ReleaseSettings quick() {
  ReleaseSettings settings;
  settings.idle_timeout = 60ms;
  settings.restore_time = 200ms;
  return settings;
}

class ReleaserTest : public ::testing::Test {
 protected:
  explicit ReleaserTest(DeviceSettings settings = {.host_budget = kGiB,
                                                   .read_ahead_max = kNoReadAhead,
                                                   .rows_ahead = false})
      : bench_(settings) {
    pool_ = bench_.pool(256 * kMiB);
  }
  void write(const std::vector<std::int64_t>& slots, std::uint64_t value) {
    bench_.write_granules(pool_, slots, value);
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  bool eventually_resident(std::uint64_t granules) {
    return eventually([&] { return bench_.figures(pool_).resident == granules * kGranuleBytes; });
  }
  CUstream own_stream() { return bench_.memory->kernels().stream(); }

  EngineBench bench_;
  const PoolRecord* pool_ = nullptr;
  const std::vector<std::int64_t> four_ = {1, 2, 3, 4};
  const std::vector<std::int64_t> one_ = {50};
};

}  // namespace kvshim::vmm::testing
