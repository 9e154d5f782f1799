// Prefetch beside work that never pauses: what readers are seen to read in host memory comes
// back to the GPU. See device_memory_prefetch.cpp for why that is exact.
#include <algorithm>
#include <string>
#include <vector>

#include "vmm/releaser.h"

namespace kvshim::vmm {
namespace {

// In one go: 5 ms of the copy engine's time, and with blocks of 8 MiB what one question swaps.
constexpr std::uint64_t kAtOnce = std::uint64_t{256} << 20;
// Left to the next faults.
constexpr std::uint64_t kHeadroom = std::uint64_t{512} << 20;
// The engine's own copies to the GPU get in between.
constexpr std::uint64_t kPiece = kGranuleBytes;
// Readers are asked so often while something is parked, ...
constexpr std::chrono::nanoseconds kAskEvery = std::chrono::milliseconds(40);
// ... and what they read counts for so long.
constexpr std::chrono::nanoseconds kReadLately = std::chrono::milliseconds(250);
// Whose next writes ask. Writing was there last, so one of them is written soon: each costs a
// question that is answered at once.
constexpr std::size_t kAskers = 16;
constexpr std::chrono::nanoseconds kTellEvery = std::chrono::seconds(10);

}  // namespace

std::uint64_t Releaser::prefetch_asks_every() const {
  if (!settings_.prefetch || memory_.host_in_use() == 0) return UINT64_MAX;
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(kAskEvery / tick_), 1);
}

// working_ held. The pieces of a block are in no order among themselves, but with each other
// block's: all are waited for.
void Releaser::copy_prefetches() {
  const std::vector<AbiCopy> copies = memory_.prefetch_copies();
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
  memory_.prefetch_copied(well);
}

// At a tick at which work came. Everything is left where others need the memory.
void Releaser::prefetch_what_is_read() {
  if (!settings_.prefetch || memory_.host_in_use() == 0) return;
  Pressure* const pressure = memory_.pressure();
  if (memory_.limits().paused.load(std::memory_order_relaxed) ||
      (pressure != nullptr && pressure->anyone_else() && pressure->anyone_asks())) {
    return memory_.end_prefetches(DeviceMemory::PrefetchEnd::kAll);
  }
  std::unique_lock working(working_, std::try_to_lock);
  if (!working) return;
  // What stands in the own stream may wait for the program, and frees wait for working_.
  if (driver_.cuStreamQuery(memory_.kernels().stream()) != CUDA_SUCCESS) return;
  copy_prefetches();
  memory_.end_prefetches(DeviceMemory::PrefetchEnd::kVoid);
  if (memory_.read_marks().answers() != answers_seen_) {
    answers_seen_ = memory_.read_marks().answers();
    if (!look_at_reads()) return;
  }
  const auto lately = static_cast<std::uint64_t>(kReadLately / tick_);
  std::vector<ExtentName> ask =
      memory_.prefetch(ticks_ - std::min(ticks_, lately), kAtOnce, kHeadroom);
  const bool begun = !ask.empty();
  if (!memory_.prefetch_needs_a_question()) return tell_prefetched();
  const std::vector<ExtentName> askers = memory_.written_last(kAskers);
  ask.insert(ask.end(), askers.begin(), askers.end());
  // With the gate open, as everywhere.
  const bool launched = launch_clear(ask);
  if (wait_for_stream() && launched) {
    memory_.prefetch_bits_cleared();
  } else if (begun) {
    memory_.end_prefetches(DeviceMemory::PrefetchEnd::kAll);
  }
  tell_prefetched();
}

void Releaser::tell_prefetched() {
  const std::uint64_t bytes = memory_.statistics().prefetched_bytes.load(std::memory_order_relaxed);
  if (bytes == prefetched_told_ ||
      (prefetched_told_tick_ != 0 &&
       ticks_ - prefetched_told_tick_ < static_cast<std::uint64_t>(kTellEvery / tick_))) {
    return;
  }
  memory_.events().push(EventLevel::kInfo, "brought back " +
                                               std::to_string((bytes - prefetched_told_) >> 20) +
                                               " MiB beside the work that reads them");
  prefetched_told_ = bytes;
  prefetched_told_tick_ = ticks_;
}

}  // namespace kvshim::vmm
