// Moves beside work that never pauses. To the GPU: what readers are seen to read in host memory,
// and what went there in need since the last release, or was made there for want of room. To host
// memory: what nobody uses, when it is cold, a limit stands against it or a neighbour lacks memory.
// See device_memory_moves.cpp for why that is exact. What is used is known by the questions of
// guards and the marks of readers, so what nobody uses is sent away only where all readers say what
// they read.
#include <algorithm>
#include <string>
#include <vector>

#include "vmm/releaser.h"

namespace kvshim::vmm {
namespace {

using std::chrono::milliseconds;

// Chosen at a time: 5 ms of the copy engine's time, ...
constexpr std::uint64_t kChosenAtOnce = std::uint64_t{256} << 20;
// ... three times as much on its way: waiting for a question, being copied, waiting for a swap, ...
constexpr std::uint64_t kHomeAtOnce = 3 * kChosenAtOnce;
// ... and less to the host: no mapping is opened meanwhile (docs/results/parking.md), so that a
// fault waits for all of it.
constexpr std::uint64_t kAwayAtOnce = std::uint64_t{32} << 20;
// Left to the next faults.
constexpr std::uint64_t kHeadroom = std::uint64_t{512} << 20;
// The engine's own copies get in between.
constexpr std::uint64_t kPiece = kGranuleBytes;
// A lone short request is left alone: the swaps would come in front of its first token.
constexpr std::chrono::nanoseconds kWorkLasts = milliseconds(30);
// Readers are asked so often while something is parked, ...
constexpr std::chrono::nanoseconds kAskForHome = milliseconds(40);
// ... while there may be a reason to park, ...
constexpr std::chrono::nanoseconds kAskForAway = milliseconds(100);
// ... and what they read counts for so long.
constexpr std::chrono::nanoseconds kReadLately = milliseconds(250);
// What neighbours or a limit get was not used for so long.
constexpr std::chrono::nanoseconds kUnused = std::chrono::seconds(1);
// When nothing was found it is looked again after so long: there may be many extents.
constexpr std::chrono::nanoseconds kLookForUnused = milliseconds(200);
constexpr std::chrono::nanoseconds kLookForGiven = milliseconds(500);
// Whose next writes ask. Writing was there last, so one of them is written soon: each costs a
// question that is answered at once.
constexpr std::size_t kAskers = 16;
constexpr std::chrono::nanoseconds kTellEvery = std::chrono::seconds(10);

}  // namespace

std::uint64_t Releaser::in_ticks(std::chrono::nanoseconds time) const {
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(time / tick_), 1);
}

std::uint64_t Releaser::tick_before(std::chrono::nanoseconds time) const {
  return ticks_ - std::min(ticks_, in_ticks(time));
}

bool Releaser::has_neighbours() const {
  const Pressure* const pressure = memory_.pressure();
  return pressure != nullptr && pressure->anyone_else();
}

bool Releaser::neighbours_ask() const {
  return has_neighbours() && memory_.pressure()->anyone_asks();
}

// UINT64_MAX: nobody wants to know.
std::uint64_t Releaser::readers_asked_every() const {
  constexpr std::uint64_t kQuestionsInTheTime = 64;
  std::uint64_t every = UINT64_MAX;
  if (settings_.cold_after.count() != 0) {
    every = std::max<std::uint64_t>(in_ticks(settings_.cold_after) / kQuestionsInTheTime, 1);
  }
  if (settings_.prefetch && memory_.host_in_use() != 0) {
    every = std::min(every, in_ticks(kAskForHome));
  }
  if (has_neighbours() || memory_.limits().limit.load(std::memory_order_relaxed) != 0) {
    every = std::min(every, in_ticks(kAskForAway));
  }
  return every;
}

void Releaser::ask_readers() {
  const std::uint64_t every = readers_asked_every();
  if (every == UINT64_MAX) {
    asked_since_ = 0;
  } else if (asked_since_ == 0) {
    asked_since_ = ticks_;
  }
  memory_.read_marks().work_goes_on(ticks_, every);
}

bool Releaser::wants_home() const {
  const auto lasts = last_spell_ < settings_.short_spell ? settings_.short_spell : kWorkLasts;
  return settings_.prefetch && active_ >= lasts && memory_.host_in_use() != 0 &&
         way_.lacking.load() + way_.taking.load() == 0 &&  // the engine needs the memory itself
         !memory_.limits().paused.load(std::memory_order_relaxed) && !neighbours_ask();
}

// What neighbours lack they are refused just now, and make in host memory: nobody waits for
// this. It is theirs at the next fault, and when they bring home what they made there.
Releaser::Away Releaser::wants_away() {
  if (!memory_.read_marks().followed()) return {};
  const bool paused = memory_.limits().paused.load(std::memory_order_relaxed);
  if (const std::uint64_t over = memory_.over_limit(); over != 0) {
    return {over, in_ticks(kUnused), true};
  }
  if (!paused && neighbours_ask()) {
    const std::uint64_t lacking = memory_.pressure()->lacked(memory_.gpu_free(), memory_.floor());
    // At least an extent: some needs are smaller than any.
    if (lacking != 0) {
      return {std::min(std::max(lacking, order_bytes(kMaxOrder)), memory_.spare()),
              in_ticks(kUnused)};
    }
  }
  if (!paused && settings_.cold_after.count() != 0) {
    return {UINT64_MAX, in_ticks(settings_.cold_after)};
  }
  return {};
}

// What an idle release has parked, before this work, stays until it is read: it would only go
// again. So does what is cold where there is a clock for that.
std::vector<ExtentName> Releaser::begin_to_bring_home() {
  const std::uint64_t on_their_way = memory_.bytes_on_their_way(MoveTo::kGpu);
  if (on_their_way > kHomeAtOnce - kChosenAtOnce) return {};
  std::vector<ExtentName> wanted;
  if (some_is_read_) {
    wanted = memory_.read_while_parked(tick_before(kReadLately));
    some_is_read_ = !wanted.empty();
  }
  const bool looks_for_given = ticks_ >= next_home_;
  if (looks_for_given) {
    // Where all reads are seen, what was sent away unused stays until it is read.
    const bool all_is_seen = memory_.read_marks().cover_all(tick_before(kUnused), worked_);
    const bool cold_too = settings_.cold_after.count() == 0 && !all_is_seen;
    const std::vector<ExtentName> given = memory_.parked_since(released_serial_, cold_too);
    wanted.insert(wanted.end(), given.begin(), given.end());
  }
  std::vector<ExtentName> begun =
      memory_.begin_to_bring_home(wanted, on_their_way + kChosenAtOnce, kHeadroom);
  if (looks_for_given && begun.empty()) next_home_ = ticks_ + in_ticks(kLookForGiven);
  if (!wanted.empty() && begun.empty() &&
      memory_.lacking(wanted.front().bytes() + kHeadroom, 0) != 0) {
    ask_for_a_return(kChosenAtOnce);
  }
  return begun;
}

// The oldest go first.
std::vector<ExtentName> Releaser::begin_to_send_away(const Away& away) {
  if (ticks_ < next_away_) return {};
  const bool all_is_seen = asked_since_ != 0 && ticks_ - asked_since_ >= away.unused_for &&
                           memory_.read_marks().cover_all(ticks_ - away.unused_for, worked_);
  if (!all_is_seen) return {};
  std::vector<ExtentName> unused = memory_.unused_since(ticks_ - away.unused_for);
  if (unused.empty()) next_away_ = ticks_ + in_ticks(kLookForUnused);
  std::sort(unused.begin(), unused.end(),
            [](const ExtentName& a, const ExtentName& b) { return a.written < b.written; });
  std::uint64_t most = std::min(away.bytes, kAwayAtOnce);
  // Else a process would stay above its limit by less than an extent.
  if (away.at_least_one && !unused.empty()) most = std::max(most, unused[0].bytes());
  std::uint64_t bytes = 0;
  std::size_t count = 0;
  while (count < unused.size() && bytes + unused[count].bytes() <= most) {
    bytes += unused[count++].bytes();
  }
  unused.resize(count);
  std::vector<ExtentName> blocks = memory_.blocks_to_park(unused);
  std::reverse(blocks.begin(), blocks.end());
  return memory_.begin_to_send_away(blocks, most);
}

// working_ held.
void Releaser::copy_moves() {
  const std::vector<AbiCopy> copies = memory_.move_copies();
  if (copies.empty()) return;
  bool well = true;
  for (const AbiCopy& copy : copies) {
    for (std::uint64_t at = 0; at < copy.bytes && well; at += kPiece) {
      well = driver_.cuMemcpyDtoDAsync_v2(copy.destination + at, copy.source + at,
                                          std::min(kPiece, copy.bytes - at),
                                          memory_.kernels().stream()) == CUDA_SUCCESS;
    }
  }
  well = wait_for_stream(Poll::kSpinFirst) && well;
  memory_.moves_copied(well);
}

// After a tick at which work came, and between that and the next one.
void Releaser::move_beside_work(Moment moment) {
  comes_home_ = false;
  const bool home = wants_home();
  const Away away = wants_away();
  if (!home && away.bytes == 0) return memory_.end_moves(DeviceMemory::MoveEnd::kAll);
  std::unique_lock working(working_, std::try_to_lock);
  if (!working) return;
  // Frees wait for working_.
  if (!own_stream_is_empty()) return;
  memory_.end_moves(home ? DeviceMemory::MoveEnd::kVoid : DeviceMemory::MoveEnd::kToGpu);
  if (memory_.read_marks().answers() != answers_seen_) {
    answers_seen_ = memory_.read_marks().answers();
    if (!look_at_reads()) return;
    some_is_read_ = true;
  }
  std::vector<ExtentName> ask;
  if (home) ask = begin_to_bring_home();
  if (away.bytes != 0 && moment == Moment::kTick) {
    const std::vector<ExtentName> leave = begin_to_send_away(away);
    ask.insert(ask.end(), leave.begin(), leave.end());
  }
  const bool begun = !ask.empty();
  if (memory_.moves_need_a_question()) {
    const std::vector<ExtentName> askers = memory_.watch_written_last(kAskers);
    ask.insert(ask.end(), askers.begin(), askers.end());
    // With the gate open, as everywhere. Pinning takes its time: the own stream is asked again.
    const bool cleared = own_stream_is_empty() && launch_clear(ask) && wait_for_stream();
    if (cleared) {
      memory_.move_bits_cleared();
    } else {
      memory_.forget_watch(askers);
      if (begun) memory_.end_moves(DeviceMemory::MoveEnd::kAll);
    }
  }
  // Last, for questions come meanwhile: what was chosen just now is proven, what was copied before
  // is swapped.
  if (own_stream_is_empty()) copy_moves();
  comes_home_ = home && memory_.bytes_on_their_way(MoveTo::kGpu) != 0;
  tell_moves();
}

void Releaser::tell_moves() {
  const Statistics& statistics = memory_.statistics();
  const std::uint64_t home = statistics.prefetched_bytes.load(std::memory_order_relaxed);
  const std::uint64_t away = statistics.moved_away_bytes.load(std::memory_order_relaxed);
  if ((home == home_told_ && away == away_told_) ||
      (moves_told_tick_ != 0 && ticks_ - moves_told_tick_ < in_ticks(kTellEvery))) {
    return;
  }
  const auto mebibytes = [](std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
  memory_.events().push(EventLevel::kInfo,
                        "beside work: brought back " + mebibytes(home - home_told_) + ", parked " +
                            mebibytes(away - away_told_) + " that it does not use");
  home_told_ = home;
  away_told_ = away;
  moves_told_tick_ = ticks_;
}

}  // namespace kvshim::vmm
