// When readers are asked which blocks they read, and whether the answers cover all that is
// read. Asking is cheap, but not free: it is done a few times in `cold_after`, or some times a
// second where something may move beside work, and whenever work begins after a pause. Nothing
// depends on the answers but what is worth moving.
#pragma once

#include <atomic>
#include <cstdint>

#include "vmm/guard_abi.h"

namespace kvshim::vmm {

/// Hooks call from any thread without a lock; the rest is the releasing thread's. Ticks are
/// that thread's.
class ReadMarks {
 public:
  /// `channel`: pinned, zero, outlives this. Not `followed`: nobody is ever asked.
  ReadMarks(bool followed, MarkChannel* channel) : followed_(followed), channel_(channel) {}

  // --- hooks ------------------------------------------------------------------------
  bool followed() const noexcept { return followed_; }
  /// What a launch outside a capture is to answer; 0: nobody asks. One relaxed load.
  std::uint32_t asked() const noexcept { return asked_.load(std::memory_order_relaxed); }
  /// A launch reads pools, and nobody knows where. One that is captured may do so again at
  /// any time.
  void reads_unseen(std::uint64_t tick, bool captured) noexcept;
  /// A mark became a node of a graph.
  void captured() noexcept { captured_.store(true, std::memory_order_relaxed); }
  /// Before a node of some graph gets other parameters: the marks in graphs may hold
  /// addresses that the reader behind them no longer has, and are never asked again.
  void nodes_change() noexcept;

  // --- releasing thread -------------------------------------------------------------
  /// At each tick at which work came: ends an asking that was answered at an earlier tick,
  /// so that all readers of a step had the time to answer, and begins one when the last
  /// began `period` ticks ago.
  void work_goes_on(std::uint64_t tick, std::uint64_t period) noexcept;
  /// All work has finished: whoever comes next is asked.
  void pause_begins(std::uint64_t tick) noexcept;
  /// Whether what was read after `since` has been marked, as far as it was asked
  /// for. `worked`: the tick at which work came last.
  bool cover_all(std::uint64_t since, std::uint64_t worked) const noexcept;
  std::uint64_t answers() const noexcept { return answers_.load(std::memory_order_relaxed); }

 private:
  bool answered() const noexcept;
  void begin(std::uint64_t tick) noexcept;
  void ask_graphs(std::uint32_t what) noexcept;
  void count_answer() noexcept;

  const bool followed_;
  MarkChannel* const channel_;
  std::atomic<std::uint32_t> asked_{0};
  std::atomic<std::uint64_t> unseen_tick_{0};  // of reads_unseen(), plus one; 0: never
  std::atomic<bool> unseen_in_graph_{false};
  std::atomic<bool> captured_{false}, nodes_changed_{false};
  std::atomic<std::uint64_t> answers_{0};
  // Releasing thread only:
  std::uint32_t number_ = 0;         // of the asking
  std::uint64_t began_tick_ = 0;     // of it
  std::uint64_t answered_tick_ = 0;  // when its answer was seen; 0: not yet
};

}  // namespace kvshim::vmm
