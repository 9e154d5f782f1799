// Figures of the mechanism: counters that any thread may read.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>

namespace kvshim::vmm {

/// Latencies in microseconds: 8 buckets per power of two up to about an hour,
/// so a quantile is at most 12.5 % too large. Lock-free; one writer or many.
class LatencyHistogram {
 public:
  void add(std::uint64_t microseconds) noexcept {
    buckets_[index(microseconds)].fetch_add(1, std::memory_order_relaxed);
    count_.fetch_add(1, std::memory_order_relaxed);
    total_.fetch_add(microseconds, std::memory_order_relaxed);
    std::uint64_t seen = max_.load(std::memory_order_relaxed);
    while (microseconds > seen &&
           !max_.compare_exchange_weak(seen, microseconds, std::memory_order_relaxed)) {
    }
  }
  std::uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }
  std::uint64_t total() const noexcept { return total_.load(std::memory_order_relaxed); }
  std::uint64_t max() const noexcept { return max_.load(std::memory_order_relaxed); }
  /// Upper bound of the bucket that holds the quantile (nearest rank, 0 < q <= 1);
  /// 0 if empty.
  std::uint64_t quantile(double q) const noexcept {
    const std::uint64_t all = count();
    if (all == 0) return 0;
    const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(all)));
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      below += buckets_[i].load(std::memory_order_relaxed);
      if (below >= rank) {
        const std::uint64_t bound = upper_bound(i);
        return bound < max() ? bound : max();
      }
    }
    return max();
  }

 private:
  static std::size_t index(std::uint64_t v) noexcept {
    if (v < 8) return static_cast<std::size_t>(v);
    const unsigned power = static_cast<unsigned>(std::bit_width(v)) - 1;  // >= 3
    const std::size_t i = (power - 2) * 8 + ((v >> (power - 3)) & 7u);
    return i < kBuckets ? i : kBuckets - 1;
  }
  static std::uint64_t upper_bound(std::size_t i) noexcept {
    if (i < 8) return i;
    const std::uint64_t power = i / 8 + 2;
    return ((8 + (i % 8) + 1) << (power - 3)) - 1;
  }
  static constexpr std::size_t kBuckets = 256;
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
  std::atomic<std::uint64_t> count_{0}, total_{0}, max_{0};
};

/// Counters of one device. Relaxed atomics: each is exact, a set read together
/// may be from neighbouring moments.
struct Statistics {
  LatencyHistogram faults;  // one per served request, but asked_again
  // Of the faults' time, in microseconds: swaps of what moved beside work.
  std::atomic<std::uint64_t> swaps_of_moves_us{0};
  // Beside the faults' time: guards copied what was parked, from one request to the next.
  std::atomic<std::uint64_t> guard_copies_us{0};
  // Requests for what is present, to see whether it is still written: answered at once.
  std::atomic<std::uint64_t> asked_again{0};
  std::atomic<std::uint64_t> cold_bytes{0};  // released because they were cold
  // Of present extents, all layers: what readers were seen to read during `cold_after`, when
  // it was looked last.
  std::atomic<std::uint64_t> marked_by_readers{0};
  std::atomic<std::uint64_t> granules_made_present{0};
  std::atomic<std::uint64_t> granules_ahead{0};  // of those, before they were asked for
  // Extents made in host memory for want of GPU memory.
  std::atomic<std::uint64_t> faults_in_host_memory{0};
  std::atomic<std::uint64_t> failed_faults{0};
  std::atomic<std::uint64_t> promotions{0};  // parked extents brought back
  std::atomic<std::uint64_t> promoted_bytes{0};
  std::atomic<std::uint64_t> quiet_bytes{0};       // of those, in quiet moments
  std::atomic<std::uint64_t> prefetched_bytes{0};  // of those, beside work that read them
  std::atomic<std::uint64_t> moved_away_bytes{0};  // parked beside work that did not use them
  std::atomic<std::uint64_t> releases{0};          // release cycles that freed something
  std::atomic<std::uint64_t> released_zero_bytes{0};
  std::atomic<std::uint64_t> parked_bytes_total{0};
  std::atomic<std::uint64_t> dropped_bytes{0};  // by the user's rule
  // With neighbours on the same GPU:
  std::atomic<std::uint64_t> given_bytes{0};       // freed because a neighbour needed memory
  std::atomic<std::uint64_t> got_bytes{0};         // asked for, and there after a wait
  std::atomic<std::uint64_t> needs_answered{0};    // waits that ended with room
  std::atomic<std::uint64_t> needs_unanswered{0};  // and without
  std::atomic<std::uint64_t> limit_bytes{0};       // freed to stay within the limit
  // That neither the limit nor host memory had room for.
  std::atomic<std::uint64_t> faults_over_limit{0};
  std::atomic<std::uint64_t> dropped_fills{0};
  std::atomic<std::uint64_t> dropped_fill_bytes{0};
};

}  // namespace kvshim::vmm
