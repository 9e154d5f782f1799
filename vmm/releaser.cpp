#include "vmm/releaser.h"

#include <pthread.h>

#include <algorithm>
#include <string>
#include <thread>

#include "vmm/context_scope.h"

namespace kvshim::vmm {
namespace {

using Clock = std::chrono::steady_clock;

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::uint64_t total_bytes(std::span<const ExtentName> extents) {
  std::uint64_t sum = 0;
  for (const ExtentName& e : extents) sum += e.bytes();
  return sum;
}

std::chrono::nanoseconds tick_for(std::chrono::nanoseconds idle_timeout) {
  using std::chrono::milliseconds;
  return std::clamp<std::chrono::nanoseconds>(idle_timeout / 10, milliseconds(1),
                                              milliseconds(20));
}

}  // namespace

Releaser::Releaser(const DriverApi& driver, DeviceMemory& memory, SubmissionGate& gate,
                   Quiescence& quiescence, FaultServer& server, ReleaseSettings settings)
    : driver_(driver),
      memory_(memory),
      gate_(gate),
      quiescence_(quiescence),
      server_(server),
      settings_(settings),
      tick_(tick_for(settings.idle_timeout)) {}

void Releaser::start() {
  stop_.thread_starts();
  std::thread([this] {
    run();
    stop_.thread_ended();
  }).detach();
}

void Releaser::run() {
  pthread_setname_np(pthread_self(), "kvshim-release");
  driver_.cuCtxSetCurrent(memory_.context());
  // Queries and allocations of this thread must not invalidate a capture.
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  driver_.cuThreadExchangeStreamCaptureMode(&mode);
  while (!stop_.requested()) {
    std::this_thread::sleep_for(tick_);
    if (!stop_.requested()) tick();
  }
}

// Idleness is counted in own ticks: after a pause of the whole process one
// tick has passed, not the pause.
void Releaser::tick() {
  memory_.set_tick(++ticks_);
  const std::uint64_t epoch = gate_.epoch();
  if (epoch != seen_epoch_) {
    seen_epoch_ = epoch;
    idle_ = {};
    finished_ = released_ = false;
    memory_.release_retired();  // what a restore swapped out
    memory_.make_slabs_ahead();
    return;
  }
  idle_ += tick_;
  if (!finished_) {
    // Not at every tick: a query of a busy stream is not free.
    if (idle_ < std::min<std::chrono::nanoseconds>(settings_.idle_timeout,
                                                   std::chrono::milliseconds(50))) {
      return;
    }
    std::lock_guard closing(closer_);
    if (!gate_.try_close(epoch)) return;
    finished_ = quiescence_.finished();
    gate_.open();
    if (!finished_) return;
    server_.all_finished(epoch);
  }
  if (idle_ < settings_.idle_timeout) {
    memory_.make_slabs_ahead();
    return;
  }
  if (!released_) {
    std::lock_guard working(working_);
    released_ = release(epoch);
    memory_.release_retired();
  } else if (settings_.disposable) {
    drop_expired(epoch);
  }
}

// Polls: the calling thread must not be stuck in the driver. Not ended by a
// stop: what the stream still touches must keep its mappings.
bool Releaser::wait_for_stream() {
  for (;;) {
    const CUresult state = driver_.cuStreamQuery(memory_.kernels().stream());
    if (state == CUDA_SUCCESS) return true;
    if (state != CUDA_ERROR_NOT_READY) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

bool Releaser::find_nonzero(std::uint64_t epoch, std::span<const ExtentName> extents,
                            std::vector<ExtentName>* zero, std::vector<ExtentName>* nonzero) {
  for (std::size_t at = 0; at < extents.size(); at += DeviceKernels::kScanCapacity) {
    const auto part =
        extents.subspan(at, std::min<std::size_t>(DeviceKernels::kScanCapacity, extents.size() - at));
    DeviceKernels& kernels = memory_.kernels();
    for (std::size_t i = 0; i < part.size(); ++i) {
      kernels.scan_ranges()[i] = {part[i].address, 0, part[i].bytes()};
    }
    const bool launched =
        kernels.launch_scan(static_cast<std::uint32_t>(part.size())) == CUDA_SUCCESS;
    if (!wait_for_stream() || !launched || interrupted(epoch)) return false;
    for (std::size_t i = 0; i < part.size(); ++i) {
      (kernels.scan_results()[i] == 0 ? zero : nonzero)->push_back(part[i]);
    }
  }
  return true;
}

// Bits are cleared with the gate open: if new work comes in meanwhile it finds
// them cleared, asks, and is answered at once. Only swaps need the closed gate.
bool Releaser::clear_bits(std::span<const ExtentName> extents) {
  std::vector<AbiRun> runs;
  for (std::size_t at = 0; at < extents.size(); at += DeviceKernels::kScanCapacity) {
    runs.clear();
    const std::size_t end = std::min(extents.size(), at + DeviceKernels::kScanCapacity);
    for (std::size_t i = at; i < end; ++i) {
      runs.push_back({memory_.arena().granule(extents[i].address), order_granules(extents[i].order)});
    }
    const bool launched = memory_.kernels().launch_clear(runs) == CUDA_SUCCESS;
    if (!wait_for_stream() || !launched) return false;
  }
  return true;
}

// Calls step(i) for i in [0, count) under the closed gate, in slices; stops as
// soon as a submitter waits (who could be too slow to get in between two slices)
// or came in between.
template <class Step>
bool Releaser::in_slices(std::uint64_t epoch, std::size_t count, const Step& step) {
  std::size_t i = 0;
  while (i < count) {
    {
      std::lock_guard closing(closer_);
      if (interrupted(epoch) || gate_.anyone_waiting() || !gate_.try_close(epoch)) return false;
      SubmissionGate::OpenAtEnd open(gate_);
      const auto end = Clock::now() + settings_.slice;
      while (i < count && !gate_.anyone_waiting() && Clock::now() < end) step(i++);
    }
    if (i < count) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

bool Releaser::make_absent(std::uint64_t epoch, std::span<const ExtentName> extents,
                           ProofOfAbsence proof, std::uint64_t* freed) {
  if (extents.empty()) return true;
  // By address, so that neighbours merge into one swap; in groups that take
  // about a millisecond, so that a slice can end between them.
  std::vector<ExtentName> sorted(extents.begin(), extents.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const ExtentName& a, const ExtentName& b) { return a.address < b.address; });
  if (!clear_bits(sorted)) return false;
  std::vector<std::span<const ExtentName>> groups;
  const std::uint64_t block = order_bytes(kMaxOrder);
  for (std::size_t begin = 0; begin < sorted.size();) {
    std::size_t end = begin + 1;
    while (end < sorted.size() && sorted[end].address / block == sorted[begin].address / block) {
      ++end;
    }
    groups.push_back(std::span<const ExtentName>(sorted).subspan(begin, end - begin));
    begin = end;
  }
  return in_slices(epoch, groups.size(), [&](std::size_t i) {
    *freed += memory_.swap_to_absent(groups[i], proof);
  });
}

bool Releaser::park(std::uint64_t epoch, std::span<const ExtentName> extents,
                    std::uint64_t* parked, std::vector<ExtentName>* no_room) {
  // What is under way when new work comes must be waited for: about 5 ms of copies.
  constexpr std::size_t kBatch = 128;
  constexpr std::uint64_t kBatchBytes = std::uint64_t{256} << 20;
  for (std::size_t at = 0; at < extents.size();) {
    std::vector<PreparedPark> prepared;
    std::vector<ExtentName> names;
    bool copied = true;
    std::uint64_t bytes = 0;
    while (at < extents.size() && prepared.size() < kBatch && bytes < kBatchBytes) {
      if (interrupted(epoch)) break;
      const ExtentName& name = extents[at++];
      PreparedPark one;
      if (!memory_.prepare_park(name, &one)) {
        no_room->push_back(name);
        continue;
      }
      prepared.push_back(one);
      names.push_back(name);
      bytes += name.bytes();
      copied = copied && driver_.cuMemcpyDtoDAsync_v2(one.staging, name.address, name.bytes(),
                                                      memory_.kernels().stream()) == CUDA_SUCCESS;
    }
    const bool done = wait_for_stream() && copied && !interrupted(epoch) && clear_bits(names);
    std::vector<bool> swapped(prepared.size(), false);
    bool undisturbed = false;
    if (done) {
      undisturbed = in_slices(epoch, prepared.size(), [&](std::size_t i) {
        swapped[i] = memory_.swap_to_parked(prepared[i], ticks_);
        if (swapped[i]) *parked += names[i].bytes();
      });
    }
    if (*parked != 0) restorable_.store(true);
    for (std::size_t i = 0; i < prepared.size(); ++i) {
      if (!swapped[i]) memory_.cancel_park(prepared[i]);
    }
    memory_.release_retired();
    if (!undisturbed) return false;
  }
  return true;
}

// Oldest first: what was parked last is what a stalled request may need.
bool Releaser::drop_parked_for(std::uint64_t epoch, std::uint64_t bytes) {
  std::vector<ExtentName> parked = memory_.extents_in(ExtentState::kParked);
  std::vector<ExtentName> oldest;
  std::uint64_t sum = 0;
  std::erase_if(parked, [](const ExtentName& e) { return e.tail; });
  while (!parked.empty() && sum < bytes) {
    sum += parked.back().bytes();
    oldest.push_back(parked.back());
    parked.pop_back();
  }
  std::uint64_t freed = 0;
  if (!make_absent(epoch, oldest, ProofOfAbsence::kDroppedByRule, &freed)) return false;
  memory_.release_retired();
  return true;
}

void Releaser::drop_expired(std::uint64_t epoch) {
  const auto age = static_cast<std::uint64_t>(settings_.drop_after / tick_);
  if (ticks_ < age || memory_.oldest_parked_tick() > ticks_ - age) return;
  // Only what is old enough itself: what was parked later may still be needed.
  std::vector<ExtentName> old = memory_.extents_in(ExtentState::kParked, ticks_ - age);
  std::erase_if(old, [](const ExtentName& e) { return e.tail; });
  if (old.empty()) return;
  std::lock_guard working(working_);
  std::uint64_t dropped = 0;
  make_absent(epoch, old, ProofOfAbsence::kDroppedByRule, &dropped);
  memory_.release_retired();
  if (dropped != 0) {
    memory_.events().push(EventLevel::kInfo,
                          "dropped " + mebibytes(dropped) + " of parked contents (drop_after)");
  }
}

bool Releaser::release(std::uint64_t epoch) {
  const std::vector<ExtentName> resident = memory_.extents_in(ExtentState::kResident);
  const auto begin = Clock::now();
  std::vector<ExtentName> zero, nonzero, no_room;
  if (!find_nonzero(epoch, resident, &zero, &nonzero)) return false;
  std::uint64_t zero_bytes = 0, parked = 0, dropped = 0;
  bool complete = make_absent(epoch, zero, ProofOfAbsence::kZero, &zero_bytes);
  memory_.release_retired();
  if (complete && settings_.disposable) {
    const std::uint64_t need = total_bytes(nonzero);
    const std::uint64_t room = memory_.host_budget() - std::min(memory_.host_budget(),
                                                                memory_.host_in_use());
    if (need > room) complete = drop_parked_for(epoch, need - room);
  }
  complete = complete && park(epoch, nonzero, &parked, &no_room);
  if (complete && settings_.disposable && !no_room.empty()) {
    const auto tails = std::stable_partition(no_room.begin(), no_room.end(),
                                             [](const ExtentName& e) { return !e.tail; });
    const std::vector<ExtentName> idle(no_room.begin(), tails);
    no_room.erase(no_room.begin(), tails);
    complete = make_absent(epoch, idle, ProofOfAbsence::kDroppedByRule, &dropped);
  }
  memory_.release_retired();
  if (zero_bytes + parked + dropped != 0) {
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
    memory_.statistics().releases.fetch_add(1);
    memory_.events().push(
        EventLevel::kInfo,
        "released " + mebibytes(zero_bytes + parked + dropped) + " in " + std::to_string(took) +
            " ms: " + mebibytes(zero_bytes) + " zero, " + mebibytes(parked) +
            " parked in host memory, " + mebibytes(dropped) + " dropped" +
            (complete ? "" : " (interrupted by new work)"));
  }
  // Also what was made in host memory for want of GPU memory comes back when it can.
  if (complete && memory_.oldest_parked_tick() != UINT64_MAX) restorable_.store(true);
  if (complete && !no_room.empty() && warned_no_room_++ == 0) {
    memory_.events().push(EventLevel::kWarning,
                          mebibytes(total_bytes(no_room)) +
                              " of idle contents stay in GPU memory: the host budget of " +
                              mebibytes(memory_.host_budget()) +
                              " is full (options host_budget, contents)");
  }
  return complete;
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

// In the submitter's thread, before its work: nothing is in flight, so holes
// are seen by nobody while the gate is closed.
void Releaser::restore() {
  // A release under way shares the stream and would be in the way of a free.
  Interruption interruption(*this);
  std::unique_lock working(working_, std::defer_lock);
  if (!wait_for_work_to_stop(working)) return;  // pages are served in place
  std::lock_guard closing(closer_);
  if (!restorable_.load()) return;
  const std::uint64_t epoch = gate_.epoch();
  if (!gate_.try_close(epoch)) return;
  SubmissionGate::OpenAtEnd open(gate_);
  restorable_.store(false);
  const auto begin = Clock::now();
  const auto end = begin + settings_.restore_time;
  std::uint64_t bytes = 0;
  if (quiescence_.finished()) {
    RelaxedCaptureScope relaxed(driver_);
    ContextScope current(driver_, memory_.context());
    // In small batches, and none is begun that the one before says won't end in
    // time: the submitter waits meanwhile.
    constexpr std::uint64_t kBatchBytes = std::uint64_t{16} << 20;
    const std::vector<ExtentName> parked = memory_.extents_in(ExtentState::kParked);
    std::size_t next = 0;
    auto longest = Clock::duration::zero();
    for (auto now = begin; next < parked.size() && now + longest < end;) {
      std::vector<PreparedPark> batch;
      std::uint64_t batch_bytes = 0;
      bool ok = true;
      while (next < parked.size() && batch_bytes < kBatchBytes) {
        PreparedPark one;
        if (!memory_.prepare_restore(parked[next++], &one)) {
          next = parked.size();
          break;
        }
        batch.push_back(one);
        batch_bytes += one.extent.bytes();
        ok = ok && driver_.cuMemcpyDtoDAsync_v2(one.staging, one.extent.address, one.extent.bytes(),
                                                memory_.kernels().stream()) == CUDA_SUCCESS;
      }
      ok = wait_for_stream() && ok;
      for (const PreparedPark& one : batch) {
        if (ok && memory_.swap_to_resident(one)) {
          bytes += one.extent.bytes();
        } else {
          memory_.cancel_restore(one);
        }
      }
      if (!ok) break;
      const auto after = Clock::now();
      longest = std::max(longest, after - now);
      now = after;
    }
  }
  if (bytes != 0) {
    const auto took =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count();
    memory_.events().push(EventLevel::kInfo, "brought back " + mebibytes(bytes) + " in " +
                                                 std::to_string(took) + " us before the first work");
  }
}

}  // namespace kvshim::vmm
