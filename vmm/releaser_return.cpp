// Coming back: the last used rows before the first work, the rest in quiet
// moments. Under the closed gate and with all work finished: nobody sees holes, and
// nobody writes what is being copied.
#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "vmm/context_scope.h"
#include "vmm/releaser.h"
#include "vmm/stopwatch.h"
#include "vmm/time_text.h"

namespace kvshim::vmm {
namespace {

// GPU memory that coming back in quiet moments leaves to the next faults.
constexpr std::uint64_t kQuietHeadroom = std::uint64_t{512} << 20;
// See return_in_quiet().
constexpr std::uint64_t kQuietAtLeast = std::uint64_t{256} << 20;
// Copied in 0.6 ms: what a submitter waits for that comes in a quiet moment.
constexpr std::uint64_t kBatch = std::uint64_t{32} << 20;

std::uint64_t bytes_of(std::span<const PreparedPark> batch) {
  std::uint64_t sum = 0;
  for (const PreparedPark& one : batch) sum += one.extent.bytes();
  return sum;
}

}  // namespace

// *blocks loses what was dealt with.
std::vector<PreparedPark> Releaser::prepare_returns(std::span<const ExtentName>* blocks,
                                                    std::uint64_t bytes, std::uint64_t headroom) {
  std::vector<PreparedPark> batch;
  std::uint64_t taken = 0;
  while (!blocks->empty() && (batch.empty() || taken + blocks->front().bytes() <= bytes)) {
    PreparedPark one;
    const Preparation result = memory_.prepare_return(blocks->front(), headroom, &one);
    *blocks = result == Preparation::kNoRoom ? blocks->last(0) : blocks->subspan(1);
    if (result != Preparation::kDone) continue;
    taken += one.extent.bytes();
    batch.push_back(one);
  }
  return batch;
}

bool Releaser::copy_returns(std::span<const PreparedPark> batch) {
  return std::all_of(batch.begin(), batch.end(), [this](const PreparedPark& one) {
    const std::vector<AbiCopy> parts = one.copies();
    return memory_.kernels().copy_steps().submit_at_once(parts);
  });
}

// While the copies of one batch run, the one before it is swapped and the next one
// prepared. No batch is begun that would not end in time at the rate until now.
std::uint64_t Releaser::bring_back(std::span<const ExtentName>* blocks, const ReturnLimits& limits,
                                   ReturnTimes* times) {
  Stopwatch watch;
  auto now = Clock::now();
  std::uint64_t came = 0;
  const auto prepare_next = [&](std::uint64_t in_flight) -> std::vector<PreparedPark> {
    if (limits.give_way && gate_.anyone_waiting()) return {};
    const auto left = static_cast<double>(std::chrono::nanoseconds(limits.end - now).count());
    const double rate = return_rate_.load(std::memory_order_relaxed);
    if (left <= 0) return {};
    // The first one ever says what the rate is.
    if (rate == 0)
      return in_flight == 0 ? prepare_returns(blocks, kBatch / 2, limits.headroom)
                            : std::vector<PreparedPark>{};
    const double room = left * rate - static_cast<double>(in_flight);
    if (blocks->empty()) return {};
    if (in_flight == 0 && came == 0 && room < static_cast<double>(blocks->front().bytes())) {
      return_rate_.store(0, std::memory_order_relaxed);  // to be measured again next time
    }
    if (room < static_cast<double>(blocks->front().bytes())) return {};
    return prepare_returns(blocks, std::min(static_cast<std::uint64_t>(room), kBatch),
                           limits.headroom);
  };
  bool copying = true;
  std::vector<PreparedPark> copied, next = prepare_next(0);
  watch.lap_into(&times->prepare);
  while (!next.empty() || !copied.empty()) {
    copying = copy_returns(next) && copying;
    watch.lap_into(&times->copy);
    std::uint64_t swapped = 0;
    for (const PreparedPark& one : copied) {
      if (copying && memory_.swap_to_resident(one)) {
        swapped += one.extent.bytes();
      } else {
        memory_.cancel_return(one);
      }
    }
    came += swapped;
    watch.lap_into(&times->swap);
    copied = std::move(next);
    next.clear();
    if (copied.empty()) break;
    if (copying) next = prepare_next(bytes_of(copied));
    watch.lap_into(&times->prepare);
    copying = wait_for_stream(Poll::kSpin) && copying;
    watch.lap_into(&times->copy);
    const auto then = std::exchange(now, Clock::now());
    const double measured = static_cast<double>(bytes_of(copied)) /
                            static_cast<double>(std::max<std::int64_t>(
                                std::chrono::nanoseconds(now - then).count(), 1));
    const double rate = return_rate_.load(std::memory_order_relaxed);
    // A small batch is slower than a large one; what is slower is believed sooner.
    const double weight = measured < rate ? 0.5 : 0.25;
    return_rate_.store(rate == 0 ? measured : (1 - weight) * rate + weight * measured,
                       std::memory_order_relaxed);
    if (next.empty() && copying) next = prepare_next(0);
    watch.lap_into(&times->prepare);
    if (!copying) {
      for (const PreparedPark& one : copied) memory_.cancel_return(one);
      for (const PreparedPark& one : next) memory_.cancel_return(one);
      *blocks = {};
      break;
    }
  }
  return came;
}

// Not a timed mutex: ThreadSanitizer of gcc 12 does not know its calls.
bool Releaser::wait_for_work_to_stop(std::unique_lock<std::mutex>& working) {
  const auto end = Clock::now() + settings_.restore_time;
  while (!working.try_lock()) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

// In the submitter's thread, before its work.
//
// It uses its time whenever there is enough to bring back, and doesn't stop at what
// was written since the last release: what was written before that may be the prefix
// of the next request, and nobody knows. Read in place, at a fiftieth of the GPU's
// own rate, it would cost its whole transfer again at each step of a decode, which
// has no quiet moment; copied, it costs that once.
void Releaser::restore() {
  // The thread may be capturing, or another one: queries must not spoil that.
  RelaxedCaptureScope relaxed(driver_);
  // A release under way shares the stream and would be in the way of a free.
  Interruption interruption(*this);
  const auto begin = Clock::now();
  const auto end = begin + settings_.restore_time;
  std::unique_lock working(working_, std::defer_lock);
  if (!wait_for_work_to_stop(working)) return;  // pages are served in place
  if (restorable_.load()) wait_for_room(begin + settings_.restore_time / 2);
  std::lock_guard closing(closer_);
  if (!restorable_.load()) return;
  const std::uint64_t epoch = gate_.epoch();
  if (!gate_.try_close(epoch)) return;
  SubmissionGate::OpenAtEnd open(gate_);
  restorable_.store(false);
  if (!quiescence_.finished()) return;
  ContextScope current(driver_, memory_.context());
  std::vector<ExtentName> plan = memory_.blocks_to_return();
  // Whatever work comes writes there.
  std::stable_partition(plan.begin(), plan.end(), [](const ExtentName& e) { return e.next_write; });
  std::span<const ExtentName> blocks(plan);
  ReturnTimes times;
  const std::uint64_t bytes = bring_back(&blocks, {.end = end}, &times);
  if (bytes != 0) {
    const auto took =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count();
    memory_.events().push(EventLevel::kInfo, "brought back " + std::to_string(bytes >> 20) +
                                                 " MiB in " + std::to_string(took) +
                                                 " us before the first work");
    memory_.events().push(EventLevel::kDebug,
                          "of that return: preparing " + in_milliseconds(times.prepare) +
                              ", swaps " + in_milliseconds(times.swap) + ", waiting for copies " +
                              in_milliseconds(times.copy));
  }
}

// Work has come for at least as long as idleness takes, with pauses: then more of it
// is likely to come after this one, and what comes back now is used before it is
// parked again. A lone request after idleness doesn't cause it, however long it is.
bool Releaser::activity_lasts() const noexcept {
  return awake_ && quiet_spells_ != 0 && active_span_ >= settings_.idle_timeout;
}

// For the next time: nobody waits for it.
void Releaser::ask_for_a_return(std::uint64_t bytes) {
  if (has_neighbours()) memory_.pressure()->ask(Lack::kRestore, bytes);
}

// What is only read stays in host memory for as long as nobody writes it. Nobody
// knows what is read, so the most recently used comes back, and of what was there
// at the last release already no more than the activity itself holds: cold contents
// of hours must not fill the GPU again.
void Releaser::return_in_quiet(std::uint64_t epoch) {
  if (memory_.parked_bytes().returnable == 0) return;
  if (neighbours_ask()) return;
  std::unique_lock working(working_, std::try_to_lock);
  if (!working) return;
  std::vector<ExtentName> plan = memory_.blocks_to_return();
  const std::uint64_t held = memory_.physical().device;
  std::uint64_t old = quiet_bytes_;
  const std::uint64_t most = std::max(held - std::min(held, quiet_bytes_), kQuietAtLeast);
  std::erase_if(plan, [&](const ExtentName& block) {
    if (block.written > released_serial_) return false;
    old += block.bytes();
    return old > most;
  });
  std::span<const ExtentName> blocks(plan);
  const auto end = Clock::now() + tick_;
  ReturnTimes times;
  while (!blocks.empty() && Clock::now() < end) {
    {
      std::lock_guard closing(closer_);
      if (interrupted(epoch) || gate_.anyone_waiting() || !gate_.try_close(epoch)) break;
      SubmissionGate::OpenAtEnd open(gate_);
      const std::uint64_t came = bring_back(&blocks,
                                            {.end = std::min(end, Clock::now() + settings_.slice),
                                             .headroom = kQuietHeadroom,
                                             .give_way = true},
                                            &times);
      quiet_bytes_ += came;
      memory_.statistics().quiet_bytes.fetch_add(came, std::memory_order_relaxed);
      if (came == 0) {
        if (memory_.lacking(kQuietAtLeast, 0) != 0) ask_for_a_return(kQuietAtLeast);
        break;
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  quiet_done_ = blocks.empty();
  retire(epoch);
}

}  // namespace kvshim::vmm
