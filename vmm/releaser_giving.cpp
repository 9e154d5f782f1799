// Memory that is wanted back before the idle timeout: by a limit, by an allocation of
// the engine itself, by neighbours. The same proofs as for every release: all work has
// finished, nothing new came in, swaps under the closed gate only.
#include <algorithm>
#include <string>
#include <utility>

#include "vmm/context_scope.h"
#include "vmm/releaser.h"
#include "vmm/room_wait.h"
#include "vmm/stopwatch.h"

namespace kvshim::vmm {
namespace {

using std::chrono::milliseconds;

// A pool is quiet when nothing was submitted for so long: shorter pauses are those
// between the steps of one request, and what is taken then is asked for at once.
constexpr std::chrono::nanoseconds kQuiet = milliseconds(20);
// What is parked in one go, before it is looked again whether it is still wanted.
// (Copies and swaps overlap within one go only.)
constexpr std::uint64_t kAtOnce = std::uint64_t{2} << 30;
// In between it is looked whether neighbours still want it: others give at the same time.
constexpr std::uint64_t kLookAgain = std::uint64_t{128} << 20;
// When nothing more could be given it is tried again after so long, or after new work.
constexpr std::chrono::nanoseconds kTryAgain = std::chrono::seconds(1);
constexpr std::chrono::nanoseconds kTellEvery = std::chrono::seconds(1);
// Whoever has paused for less than this may go on at any moment: what it wrote last is
// left to it, in need of neighbours too.
constexpr std::chrono::nanoseconds kPause = milliseconds(500);
// What counts as written last.
constexpr std::chrono::nanoseconds kLastStep = milliseconds(200);

bool newer(const ExtentName& a, const ExtentName& b) { return a.written > b.written; }

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

// Counted last: a request that is seen has its bytes in the sum.
Releaser::MakingWay::MakingWay(Releaser& releaser, std::uint64_t bytes) noexcept
    : releaser_(releaser), bytes_(bytes), number_([&] {
        releaser.way_.lacking.fetch_add(bytes);
        return releaser.way_.newest.fetch_add(1) + 1;
      }()) {
  releaser_.wakeup_.wake();
}

Releaser::MakingWay::~MakingWay() {
  (takes_ ? releaser_.way_.taking : releaser_.way_.lacking).fetch_sub(bytes_);
}

void Releaser::MakingWay::takes() noexcept {
  if (std::exchange(takes_, true)) return;
  releaser_.way_.taking.fetch_add(bytes_);
  releaser_.way_.lacking.fetch_sub(bytes_);
}

bool Releaser::merely_pauses() const noexcept {
  return idle_ < std::min(settings_.idle_timeout, kPause);
}

// In own ticks.
std::uint64_t Releaser::last_step() const noexcept {
  const auto step = static_cast<std::uint64_t>(kLastStep / tick_);
  return worked_ - std::min(worked_, step);
}

// A limit is the operator's word and comes first; then the process's own needs.
Releaser::Wanted Releaser::wanted_now() {
  way_seen_ = way_.newest.load();
  if (const std::uint64_t over = memory_.over_limit(); over != 0) return {over, For::kLimit};
  const std::uint64_t plain = way_.tried.load() < way_seen_ ? way_.lacking.load() : 0;
  if (plain != 0) {
    const std::uint64_t free = memory_.gpu_free();
    if (free < plain) return {plain - free, For::kOwnAllocation, UINT64_MAX, free};
  }
  Pressure* const pressure = memory_.pressure();
  if (pressure == nullptr || !pressure->anyone_else() || !pressure->anyone_asks()) return {};
  const bool paused = memory_.limits().paused.load(std::memory_order_relaxed);
  std::uint64_t spare = paused ? 0 : memory_.spare();
  if (merely_pauses()) spare = std::min(spare, memory_.untouched_since(last_step()));
  const auto idle = std::chrono::duration_cast<milliseconds>(idle_).count();
  const std::uint64_t free = memory_.gpu_free();
  const std::uint64_t asked = pressure->asked_of_us({.gpu_free = free,
                                                     .floor = memory_.floor(),
                                                     .spare = spare,
                                                     .idle_ms = static_cast<std::uint64_t>(idle)});
  return asked != 0 ? Wanted{asked, For::kNeighbours, spare, free} : Wanted{};
}

// Releasing thread. What can't be given now is refused at once, so that nobody waits
// for it; the next tick looks again.
void Releaser::give_what_is_wanted() {
  const std::uint64_t requests = release_requests_.load();
  const std::uint64_t epoch = gate_.epoch();
  Wanted wanted = wanted_now();
  const bool requested = requests != releases_done_.load();
  bringing_down_.store(wanted.whom == For::kLimit);
  if (wanted.bytes == 0 && !requested) return tell_given();
  const bool at_once = requested || wanted.whom == For::kOwnAllocation;
  if (epoch != seen_epoch_ && at_once) work_came(epoch);
  const bool spent = wanted.whom != For::kOwnAllocation && nothing_left_epoch_ == epoch &&
                     ticks_ < nothing_left_until_;
  const bool quiet =
      epoch == seen_epoch_ && (at_once || idle_ >= kQuiet) && (finished_ || all_finished(epoch));
  std::uint64_t given = 0;
  if (quiet && (requested || !spent)) {
    std::unique_lock working(working_, std::try_to_lock);
    if (!working) return;  // a restore or a free: the next tick
    if (requested && release(epoch)) released_ = true;
    bool undisturbed = true;
    while (undisturbed && wanted.bytes != 0) {
      std::uint64_t freed = 0;
      needy_told_ = asked_at_ = 0;
      giving_ = wanted.whom == For::kNeighbours;
      way_.under_way.store(wanted.whom == For::kOwnAllocation);
      if (giving_ && given == 0) memory_.pressure()->begins_to_give();
      Round round;
      undisturbed = give_some(epoch, wanted, &freed, &round);
      tell_round(wanted, freed, undisturbed, round);
      // What was taken out for nothing is found again at once, in its turn.
      if (!undisturbed) idle_contents_.epoch = UINT64_MAX;
      Statistics& statistics = memory_.statistics();
      switch (wanted.whom) {
        case For::kLimit:
          statistics.limit_bytes.fetch_add(freed, std::memory_order_relaxed);
          brought_down_untold_ += freed;
          break;
        case For::kOwnAllocation:
          made_way_untold_ += freed;
          break;
        case For::kNeighbours:
          statistics.given_bytes.fetch_add(freed, std::memory_order_relaxed);
          given_untold_ += freed;
          given += freed;
          tell_needy(freed);
          break;
        case For::kNobody:
          break;
      }
      // Where there is no room for contents, zeros may still lie in what was not looked at.
      const bool more = round.tried && !idle_contents_.unseen.empty();
      if (undisturbed && freed == 0 && !more) {
        way_.tried.store(way_seen_);
        nothing_left_epoch_ = epoch;
        nothing_left_until_ = ticks_ + static_cast<std::uint64_t>(kTryAgain / tick_);
        break;
      }
      wanted = wanted_now();
    }
  }
  if (std::exchange(giving_, false)) memory_.pressure()->ends_giving();
  way_.under_way.store(false);
  if (wanted.whom == For::kNeighbours && given == 0) memory_.pressure()->gave(0);
  bringing_down_.store(false);  // a busy process is brought down in its next quiet moment
  releases_done_.store(requests);
  tell_given();
}

// In the submitter's thread, for half of the time that coming back may take: a restore
// asks only for what it could bring back in the rest of it.
void Releaser::wait_for_room(Clock::time_point end) {
  constexpr std::uint64_t kMost = std::uint64_t{256} << 20;
  Pressure* const pressure = memory_.pressure();
  if (pressure == nullptr || !pressure->anyone_else()) return;
  const std::uint64_t bytes = std::min(memory_.parked_bytes().returnable, kMost);
  if (bytes == 0) return;
  ContextScope current(driver_, memory_.context());
  if (memory_.lacking(bytes, 0) == 0) return;
  const auto left = end - Clock::now();
  vmm::wait_for_room(
      *pressure, Lack::kRestore, bytes, {left, left, left},
      [&](std::uint64_t set_apart) { return memory_.lacking(bytes, set_apart) != 0; },
      memory_.statistics(), memory_.events());
}

// What was freed of this round; they wait for as long as it goes on.
void Releaser::tell_needy(std::uint64_t freed) {
  if (!giving_ || freed <= needy_told_) return;
  memory_.pressure()->gave(freed - needy_told_);
  needy_told_ = freed;
}

// In the middle of a round.
bool Releaser::neighbours_want_no_more(std::uint64_t freed) {
  if (!giving_ || freed - std::min(freed, asked_at_) < kLookAgain) return false;
  asked_at_ = freed;
  if (wanted_now().whom == For::kNeighbours) return false;
  idle_contents_.epoch = UINT64_MAX;  // the rest is found again, in its turn
  return true;
}

// Kept until new work comes: nothing changes contents without it, and every swap asks
// whether the extent is still as it was named. In a mere pause: what was not written
// last, and it doesn't come back before it is written, as nothing cold does.
void Releaser::list_idle(std::uint64_t epoch, bool pause) {
  std::vector<ExtentName> resident = memory_.extents_in(ExtentState::kResident);
  if (pause) {
    std::erase_if(resident, [this](const ExtentName& extent) {
      return extent.front || extent.touched >= last_step();
    });
  }
  idle_contents_ = {.epoch = epoch, .of_a_pause = pause, .unseen = std::move(resident)};
}

// Looks at more until so many bytes were found: whoever lacks memory waits for it, and to look at
// all of a large GPU takes 40 ms, and 80 beside its guards (measured: docs/results/sharing.md).
bool Releaser::find_idle(std::uint64_t epoch, std::uint64_t bytes) {
  IdleContents& idle = idle_contents_;
  while (idle.found < bytes && !idle.unseen.empty()) {
    std::vector<ExtentName> portion, nonzero;
    for (std::uint64_t sum = 0; sum < settings_.seen_at_once && !idle.unseen.empty();) {
      portion.push_back(idle.unseen.back());
      sum += portion.back().bytes();
      idle.unseen.pop_back();
    }
    const std::size_t known = idle.zero.size();
    if (!find_nonzero(epoch, portion, &idle.zero, &nonzero)) {
      idle.epoch = UINT64_MAX;
      return false;
    }
    std::vector<ExtentName> blocks = memory_.blocks_to_park(nonzero);
    for (ExtentName& block : blocks) block.cold = idle.of_a_pause;
    idle.found += total_bytes(std::span(idle.zero).subspan(known)) + total_bytes(blocks);
    idle.blocks.insert(idle.blocks.end(), blocks.begin(), blocks.end());
    std::stable_sort(idle.zero.begin(), idle.zero.end(), newer);
    std::stable_sort(idle.blocks.begin(), idle.blocks.end(), newer);
  }
  return true;
}

// Of what was found, what is zero goes first, it costs nothing; then the least recently
// written. False: interrupted by new work.
bool Releaser::give_some(std::uint64_t epoch, const Wanted& wanted, std::uint64_t* freed,
                         Round* round) {
  Stopwatch watch(round->begin);
  retire(epoch);
  const bool pause = wanted.whom == For::kNeighbours && merely_pauses();
  if (idle_contents_.epoch != epoch || idle_contents_.of_a_pause != pause ||
      idle_contents_.empty()) {
    list_idle(epoch, pause);
  }
  const std::uint64_t bytes = std::min(wanted.bytes, kAtOnce);
  const bool found = find_idle(epoch, bytes);
  watch.lap_into(&round->scan);
  if (!found) return false;
  std::uint64_t chosen = 0;
  std::vector<ExtentName> zero;
  const auto wants = [&](const std::vector<ExtentName>& from) {
    return !from.empty() && chosen < bytes && from.back().bytes() <= wanted.most - chosen;
  };
  const auto take = [&](std::vector<ExtentName>* from) {
    const ExtentName taken = from->back();
    from->pop_back();
    chosen += taken.bytes();
    idle_contents_.found -= taken.bytes();
    return taken;
  };
  while (wants(idle_contents_.zero)) zero.push_back(take(&idle_contents_.zero));
  const bool absent = make_absent(epoch, zero, ProofOfAbsence::kZero, freed);
  if (absent) retire(epoch);
  watch.lap_into(&round->zeros);
  if (!absent) return false;
  tell_needy(*freed);
  std::deque<ExtentName> blocks;
  while (wants(idle_contents_.blocks)) blocks.push_back(take(&idle_contents_.blocks));
  round->tried = chosen != 0;
  std::vector<ExtentName> no_room;
  bool undisturbed = park_blocks(epoch, std::move(blocks), freed, &no_room, &round->parking);
  // The user's rule speaks of idle contents, and idle is what has outlasted the timeout:
  // a short pause must not drop what a request still needs.
  if (undisturbed && settings_.disposable && idle_ >= settings_.idle_timeout && !no_room.empty()) {
    std::erase_if(no_room, [](const ExtentName& e) { return e.tail; });
    undisturbed = make_absent(epoch, no_room, ProofOfAbsence::kDroppedByRule, freed);
  }
  retire(epoch);
  return undisturbed;
}

// For whoever wants to know where time goes; what is refused at once is not worth a line.
void Releaser::tell_round(const Wanted& wanted, std::uint64_t freed, bool undisturbed,
                          const Round& round) {
  using std::chrono::duration_cast;
  using std::chrono::microseconds;
  const Clock::duration took = Clock::now() - round.begin;
  if (freed == 0 && took < milliseconds(1)) return;
  const auto us = [](Clock::duration time) {
    return std::to_string(duration_cast<microseconds>(time).count());
  };
  memory_.events().push(EventLevel::kDebug,
                        "a round of giving: " + mebibytes(wanted.bytes) + " wanted, " +
                            mebibytes(wanted.free) + " were free, " + mebibytes(freed) +
                            " freed in " + us(took) + " us; scan " + us(round.scan) + ", zeros " +
                            us(round.zeros) + ", preparing copies " + us(round.parking.prepare) +
                            ", swaps " + us(round.parking.swap) + ", releasing handles " +
                            us(round.parking.retire) + ", waiting for copies " +
                            us(round.parking.copy) + (undisturbed ? "" : "; disturbed") + " (at " +
                            us(round.begin.time_since_epoch()) + " us)");
}

// One line a second at most.
void Releaser::tell_given() {
  if (given_untold_ + brought_down_untold_ + made_way_untold_ == 0 ||
      ticks_ - told_tick_ < static_cast<std::uint64_t>(kTellEvery / tick_)) {
    return;
  }
  const auto tell = [this](std::uint64_t* bytes, const char* why) {
    if (const std::uint64_t freed = std::exchange(*bytes, 0); freed != 0) {
      memory_.events().push(EventLevel::kInfo, "freed " + mebibytes(freed) + why);
    }
  };
  tell(&given_untold_, " for neighbours that need memory");
  tell(&brought_down_untold_, " to stay within the limit");
  tell(&made_way_untold_, " for an allocation of this process");
  told_tick_ = ticks_;
}

}  // namespace kvshim::vmm
