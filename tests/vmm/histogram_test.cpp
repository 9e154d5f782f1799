#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "vmm/statistics.h"

namespace kvshim::vmm {
namespace {

TEST(LatencyHistogramTest, IsEmptyAtFirst) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.quantile(0.5), 0u);
}

TEST(LatencyHistogramTest, SmallValuesAreExact) {
  for (std::uint64_t value = 0; value < 16; ++value) {
    LatencyHistogram histogram;
    histogram.add(value);
    histogram.add(1000);
    EXPECT_EQ(histogram.quantile(0.25), value);
  }
}

TEST(LatencyHistogramTest, AQuantileIsTheNearestRank) {
  LatencyHistogram histogram;
  for (std::uint64_t value = 1; value <= 10; ++value) histogram.add(value);
  EXPECT_EQ(histogram.quantile(0.1), 1u);
  EXPECT_EQ(histogram.quantile(0.5), 5u);
  EXPECT_EQ(histogram.quantile(0.51), 6u);
  EXPECT_EQ(histogram.quantile(1.0), 10u);
}

TEST(LatencyHistogramTest, AnyQuantileIsRightWithinABucket) {
  std::mt19937_64 random(3);
  std::vector<std::uint64_t> values;
  LatencyHistogram histogram;
  std::lognormal_distribution<double> spread(6.0, 2.5);
  for (int i = 0; i < 20000; ++i) {
    values.push_back(static_cast<std::uint64_t>(spread(random)));
    histogram.add(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * 20000.0)) - 1;
    const auto exact = static_cast<double>(values[rank]);
    const auto told = static_cast<double>(histogram.quantile(q));
    EXPECT_GE(told, exact) << q;
    EXPECT_LE(told, exact * 1.125 + 1) << q;
  }
}

TEST(LatencyHistogramTest, ValuesBeyondTheLastBucketAreKeptAsMaximum) {
  LatencyHistogram histogram;
  histogram.add(UINT64_MAX);
  EXPECT_EQ(histogram.max(), UINT64_MAX);
  EXPECT_EQ(histogram.count(), 1u);
  EXPECT_GT(histogram.quantile(1.0), std::uint64_t{1} << 33);
}

TEST(LatencyHistogramTest, ManyThreadsLoseNothing) {
  LatencyHistogram histogram;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([&histogram, t] {
      for (std::uint64_t i = 0; i < 10000; ++i) histogram.add(i % 100 + t);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(histogram.count(), 40000u);
  EXPECT_EQ(histogram.max(), 102u);
  EXPECT_EQ(histogram.total(), 4u * 10000u * 99u / 2 + 10000u * (0 + 1 + 2 + 3));
}

}  // namespace
}  // namespace kvshim::vmm
