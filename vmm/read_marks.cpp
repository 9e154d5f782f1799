#include "vmm/read_marks.h"

#include <algorithm>

namespace kvshim::vmm {

void ReadMarks::reads_unseen(std::uint64_t tick, bool captured) noexcept {
  if (captured) unseen_in_graph_.store(true, std::memory_order_relaxed);
  unseen_tick_.store(tick + 1, std::memory_order_relaxed);
}

// Either the releasing thread sees the flag after it has asked, or this thread takes the
// question back.
void ReadMarks::nodes_change() noexcept {
  if (!captured_.load(std::memory_order_relaxed)) return;
  nodes_changed_.store(true);
  std::atomic_ref(channel_->asked).store(0);
}

void ReadMarks::ask_graphs(std::uint32_t what) noexcept {
  if (nodes_changed_.load()) return;
  std::atomic_ref asked(channel_->asked);
  asked.store(what);
  if (nodes_changed_.load()) asked.store(0);
}

bool ReadMarks::answered() const noexcept {
  return std::atomic_ref(channel_->answered).load(std::memory_order_relaxed) == number_ &&
         number_ != 0;
}

void ReadMarks::begin(std::uint64_t tick) noexcept {
  number_ = std::max<std::uint32_t>(number_ + 1, 1);
  began_tick_ = tick;
  answered_tick_ = 0;
  asked_.store(number_, std::memory_order_relaxed);
  ask_graphs(number_);
}

void ReadMarks::count_answer() noexcept {
  answers_.store(answers() + 1, std::memory_order_relaxed);
}

void ReadMarks::work_goes_on(std::uint64_t tick, std::uint64_t period) noexcept {
  if (!followed_) return;
  if (asked() == 0) {
    if (tick - began_tick_ >= period) begin(tick);
    return;
  }
  if (!answered()) return;
  if (answered_tick_ == 0) {
    answered_tick_ = tick;
    count_answer();
  } else if (tick > answered_tick_) {
    asked_.store(0, std::memory_order_relaxed);
    ask_graphs(0);
  }
}

// An asking that nobody has answered goes on: who is asked then is not forgotten.
void ReadMarks::pause_begins(std::uint64_t tick) noexcept {
  if (!followed_) return;
  if (asked() != 0 && !answered()) return;
  if (asked() != 0 && answered_tick_ == 0) count_answer();
  begin(tick);
}

bool ReadMarks::cover_all(std::uint64_t since, std::uint64_t worked) const noexcept {
  if (answers() == 0 || unseen_in_graph_.load(std::memory_order_relaxed) ||
      nodes_changed_.load(std::memory_order_relaxed) ||
      unseen_tick_.load(std::memory_order_relaxed) > since + 1) {
    return false;
  }
  // Work that came after the question and did not answer it is no reader that is known. At
  // the tick itself it may have come before.
  return asked() == 0 || answered() || worked <= began_tick_ + 1;
}

}  // namespace kvshim::vmm
