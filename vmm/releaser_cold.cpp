// Cold rows: what was not used for `cold_after` goes to host memory in short pauses
// of a pool that is never idle for long. Under FIFO block reuse even light traffic walks
// through the whole pool, and without this it would hold all of it in the end.
//
// The swaps are proven as those of any release: everything has finished, nothing was
// submitted since, the gate is closed. Which extents are cold is a guess (not every reader
// says what it reads): a wrong one costs time, never contents.
#include <algorithm>
#include <string>

#include "vmm/releaser.h"

namespace kvshim::vmm {
namespace {

// Shorter pauses are those between the steps of a request.
constexpr std::chrono::nanoseconds kPause = std::chrono::milliseconds(50);
// Between two looks at what is written, and between two at what is cold.
constexpr std::uint64_t kLooksInTheTime = 4;
// What is looked at and parked in one go: some 10 ms of scan, copies and swaps, which end
// sooner when work comes. Less when that was too much for a pause.
constexpr std::uint64_t kAtOnce = std::uint64_t{256} << 20;
constexpr std::uint64_t kLeastAtOnce = kGranuleBytes;
// See DeviceMemory::cold_extents().
constexpr std::uint64_t kKept = std::uint64_t{256} << 20;
constexpr std::chrono::nanoseconds kTellEvery = std::chrono::seconds(10);

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

// Marks lie in memory of the shim's own. What work adds meanwhile is seen now or next time.
bool Releaser::look_at_reads() {
  if (!memory_.read_marks().followed()) return true;
  DeviceKernels& kernels = memory_.kernels();
  const bool launched = kernels.launch_take() == CUDA_SUCCESS;
  if (!wait_for_stream() || !launched) return false;
  memory_.note_reads(kernels.marks_taken(), ticks_);
  return true;
}

// Bits are cleared with the gate open, as everywhere: a guard that finds one cleared asks
// and is answered. Marked before they are cleared, and while no answer is under way, so
// that no write goes by unseen afterwards.
bool Releaser::watch_writes(std::uint64_t epoch) {
  std::vector<ExtentName> names;
  {
    std::lock_guard closing(closer_);
    if (interrupted(epoch) || gate_.anyone_waiting() || !gate_.try_close(epoch)) return false;
    SubmissionGate::OpenAtEnd open(gate_);
    names = memory_.watch(ticks_);
  }
  const std::span<const ExtentName> all(names);
  for (std::size_t at = 0; at < all.size(); at += DeviceKernels::kScanCapacity) {
    const auto part =
        all.subspan(at, std::min<std::size_t>(DeviceKernels::kScanCapacity, all.size() - at));
    const bool launched = launch_clear(part);
    if (!wait_for_stream() || !launched) {
      memory_.forget_watch(all.subspan(at));
      return false;
    }
  }
  return true;
}

// A little at a time: what was written longest ago, then it is looked again.
std::vector<ExtentName> Releaser::next_cold(std::uint64_t age) {
  if (ticks_ <= age) return {};
  // Nothing needs to be kept for reads that nobody sees where all are seen.
  const bool all_seen = memory_.read_marks().cover_all(ticks_ - age, worked_);
  std::vector<ExtentName> cold = memory_.cold_extents(ticks_ - age, all_seen ? 0 : kKept);
  std::uint64_t bytes = 0;
  std::size_t taken = 0;
  while (taken < cold.size() && bytes < cold_at_once_) {
    bytes += cold[cold.size() - ++taken].bytes();
  }
  cold.erase(cold.begin(), cold.end() - static_cast<std::ptrdiff_t>(taken));
  return cold;
}

void Releaser::release_cold(std::uint64_t epoch) {
  if (settings_.cold_after.count() == 0 || idle_ < kPause ||
      memory_.limits().paused.load(std::memory_order_relaxed)) {
    return;
  }
  const auto age =
      std::max<std::uint64_t>(static_cast<std::uint64_t>(settings_.cold_after / tick_), 1);
  const std::uint64_t look = std::max<std::uint64_t>(age / kLooksInTheTime, 1);
  if (ticks_ < next_watch_ && ticks_ < next_cold_) return;
  std::unique_lock working(working_, std::try_to_lock);
  if (!working) return;
  if (ticks_ >= next_watch_) {
    if (!watch_writes(epoch)) return;
    next_watch_ = ticks_ + look;
  }
  if (ticks_ < next_cold_ || !look_at_reads()) return;
  const std::vector<ExtentName> cold = next_cold(age);
  std::vector<ExtentName> zero, nonzero, no_room;
  ParkFigures figures;
  std::uint64_t zero_bytes = 0, parked = 0;
  bool undisturbed = find_nonzero(epoch, cold, &zero, &nonzero) &&
                     make_absent(epoch, zero, ProofOfAbsence::kZero, &zero_bytes);
  if (undisturbed) {
    std::vector<ExtentName> plan = memory_.blocks_to_park(nonzero);
    for (ExtentName& block : plan) block.cold = true;
    // Nothing is dropped for want of room, whatever `contents` says: it may be read by a
    // request that goes on.
    undisturbed = park_blocks(epoch, std::deque<ExtentName>(plan.begin(), plan.end()), &parked,
                              &no_room, &figures);
  }
  memory_.statistics().cold_bytes.fetch_add(zero_bytes + parked, std::memory_order_relaxed);
  cold_untold_ += zero_bytes + parked;
  if (undisturbed) {
    cold_at_once_ = std::min(2 * cold_at_once_, kAtOnce);
    retire(epoch);
    // All of it is looked at, or it stays for want of room.
    if (zero_bytes + parked == 0 || !no_room.empty()) next_cold_ = ticks_ + look;
  } else if (zero_bytes + parked == 0) {
    cold_at_once_ = std::max(cold_at_once_ / 2, kLeastAtOnce);
  }
  if (!no_room.empty()) warn_no_room(no_room);
  tell_cold();
}

void Releaser::tell_cold() {
  if (cold_untold_ == 0 ||
      (cold_told_tick_ != 0 &&
       ticks_ - cold_told_tick_ < static_cast<std::uint64_t>(kTellEvery / tick_))) {
    return;
  }
  memory_.events().push(EventLevel::kInfo, "released " + mebibytes(cold_untold_) +
                                               " that were not used for long (cold_after)");
  cold_untold_ = 0;
  cold_told_tick_ = ticks_;
}

}  // namespace kvshim::vmm
