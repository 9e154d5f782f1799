// A release: what is zero becomes absent, the rest goes to host memory.
#include <algorithm>
#include <bit>
#include <string>
#include <thread>
#include <utility>

#include "vmm/releaser.h"
#include "vmm/stopwatch.h"
#include "vmm/time_text.h"

namespace kvshim::vmm {
namespace {

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

// Where writing goes on an extent may be mostly unwritten, whose copy would have to come back
// before the next work: each of its granules is looked at by itself.
bool Releaser::find_nonzero(std::uint64_t epoch, std::span<const ExtentName> extents,
                            std::vector<ExtentName>* zero, std::vector<ExtentName>* nonzero) {
  DeviceKernels& kernels = memory_.kernels();
  const auto ranges_of = [](const ExtentName& extent) {
    return extent.next_write ? order_granules(extent.order) : 1;
  };
  for (std::size_t at = 0, end = 0; at < extents.size(); at = end) {
    std::uint32_t ranges = 0;
    for (; end < extents.size() && ranges + ranges_of(extents[end]) <= DeviceKernels::kScanCapacity;
         ++end) {
      const std::uint32_t count = ranges_of(extents[end]);
      const std::uint64_t bytes = extents[end].bytes() / count;
      for (std::uint32_t i = 0; i < count; ++i) {
        kernels.scan_ranges()[ranges++] = {extents[end].address + i * bytes, 0, bytes};
      }
    }
    const bool launched = kernels.launch_scan(ranges) == CUDA_SUCCESS;
    if (!wait_for_stream() || !launched || interrupted(epoch)) return false;
    const auto* result = kernels.scan_results();
    for (const ExtentName& extent : extents.subspan(at, end - at)) {
      ExtentName found = extent;
      const std::uint32_t count = ranges_of(extent);
      std::uint32_t zeros = 0;
      for (std::uint32_t i = 0; i < count; ++i) {
        if (*result++ != 0) continue;
        ++zeros;
        found.zero_granules = static_cast<std::uint16_t>(found.zero_granules | 1u << i);
      }
      found.by_granule = count > 1;
      (zeros == count ? zero : nonzero)->push_back(found);
    }
  }
  return true;
}

// Bits are cleared with the gate open: if new work comes in meanwhile it finds
// them cleared, asks, and is answered at once. Only swaps need the closed gate.
// The launch must have finished before the next one.
bool Releaser::launch_clear(std::span<const ExtentName> extents) {
  std::vector<AbiRun> runs;
  for (const ExtentName& extent : extents) {
    runs.push_back({memory_.arena().granule(extent.address), order_granules(extent.order)});
  }
  return memory_.kernels().launch_clear(runs) == CUDA_SUCCESS;
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
  const std::span<const ExtentName> all(sorted);
  for (std::size_t at = 0; at < all.size(); at += DeviceKernels::kScanCapacity) {
    const bool launched = launch_clear(
        all.subspan(at, std::min<std::size_t>(DeviceKernels::kScanCapacity, all.size() - at)));
    if (!wait_for_stream() || !launched) return false;
  }
  std::vector<std::span<const ExtentName>> groups;
  const std::uint64_t block = order_bytes(kMaxOrder);
  for (std::size_t begin = 0; begin < sorted.size();) {
    std::size_t end = begin + 1;
    while (end < sorted.size() && sorted[end].address / block == sorted[begin].address / block) {
      ++end;
    }
    groups.push_back(all.subspan(begin, end - begin));
    begin = end;
  }
  return in_slices(epoch, groups.size(),
                   [&](std::size_t i) { *freed += memory_.swap_to_absent(groups[i], proof); });
}

// For many blocks at once: a kernel behind each copy would wait for its turn on a GPU where
// another process works, 2 ms for each block of 32 MiB (measured: docs/results/sharing.md).
bool Releaser::clear_next(const std::deque<ExtentName>& blocks, std::uint64_t* cleared) {
  constexpr std::uint64_t kAtOnce = std::uint64_t{2} << 30;
  std::vector<ExtentName> next;
  for (const ExtentName& block : blocks) {
    if (*cleared >= kAtOnce || next.size() == DeviceKernels::kScanCapacity) break;
    next.push_back(block);
    *cleared += block.bytes();
  }
  const bool launched = launch_clear(next);
  return wait_for_stream() && launched;
}

// The copy of the next block that there is host memory for. `cleared`: so many bytes of
// blocks have their bits clear. What is split or not copied after all keeps them clear, and
// whoever writes it next asks once.
Releaser::ParkCopy Releaser::start_copy(std::uint64_t epoch, std::deque<ExtentName>* blocks,
                                        std::uint64_t* cleared, std::vector<ExtentName>* no_room,
                                        std::uint64_t* refused) {
  while (!blocks->empty() && !interrupted(epoch)) {
    if (*cleared == 0 && !clear_next(*blocks, cleared)) return {};
    const ExtentName name = blocks->front();
    blocks->pop_front();
    *cleared -= name.bytes();
    PreparedPark one;
    switch (memory_.prepare_park(name, &one)) {
      case Preparation::kDone:
        return {one, memory_.kernels().copy_steps().submit(one.copies())};
      case Preparation::kSplit: {
        const auto parts = DeviceMemory::halves(name);
        blocks->insert(blocks->begin(), parts.begin(), parts.end());
        *cleared += name.bytes();
        break;
      }
      case Preparation::kNoRoom:
        no_room->push_back(name);
        break;
      case Preparation::kRefused:
        *refused += name.bytes();
        break;
      case Preparation::kChanged:
        break;
    }
  }
  return {};
}

bool Releaser::swap_copied(std::uint64_t epoch, const PreparedPark& block, std::uint64_t* parked,
                           ParkFigures* figures) {
  bool swapped = false;
  const bool undisturbed =
      in_slices(epoch, 1, [&](std::size_t) { swapped = memory_.swap_to_parked(block, ticks_); });
  if (!swapped) {
    memory_.cancel_park(block);
    return undisturbed;
  }
  *parked += block.extent.bytes();
  figures->zero += block.zero_bytes();
  if (!block.extent.cold) restorable_.store(true);
  return undisturbed;
}

bool Releaser::park(std::uint64_t epoch, std::span<const ExtentName> extents, std::uint64_t* parked,
                    std::vector<ExtentName>* no_room, ParkFigures* figures) {
  const std::vector<ExtentName> plan = memory_.blocks_to_park(extents);
  return park_blocks(epoch, std::deque<ExtentName>(plan.begin(), plan.end()), parked, no_room,
                     figures);
}

// While a block is copied, what the swap before took out is released, and the block before
// it is swapped: for 8 MiB the copy takes 155 us, the calls 150 to 220. Only one block is
// copied beside a swap, because opening a mapping (cuMemSetAccess) ends no sooner than the
// copies to host memory that were submitted before it (measured: docs/results/parking.md).
// With one it waits for the rest of that one, after its own work has run beside it. With
// 128 MiB the first swap waited 2.5 ms for all of them, the lock held and the gate closed,
// and the others then ran beside nothing. For the same reason a block that is parked in parts
// is copied in as many steps: each opening of the swap beside it lets one go.
bool Releaser::park_blocks(std::uint64_t epoch, std::deque<ExtentName> blocks,
                           std::uint64_t* parked, std::vector<ExtentName>* no_room,
                           ParkFigures* figures) {
  ParkCopy copied;
  std::uint64_t cleared = 0;
  bool undisturbed = true;
  Stopwatch watch;
  while (undisturbed && (!blocks.empty() || copied.block)) {
    const ParkCopy next = start_copy(epoch, &blocks, &cleared, no_room, &figures->refused);
    watch.lap_into(&figures->prepare);
    retire(epoch);
    tell_needy(*parked);
    if (!blocks.empty() && neighbours_want_no_more(*parked)) blocks.clear();
    watch.lap_into(&figures->retire);
    if (copied.block) undisturbed = swap_copied(epoch, *copied.block, parked, figures);
    memory_.kernels().copy_steps().let_all_go();
    watch.lap_into(&figures->swap);
    if (!next.block) {  // what came after the last swap disturbs nothing
      undisturbed = undisturbed && blocks.empty();
    } else {
      // A swap has waited for nearly all of the copy.
      const Poll poll = copied.block ? Poll::kSpinFirst : Poll::kSleep;
      undisturbed = wait_for_stream(poll) && next.copying && undisturbed && !interrupted(epoch);
    }
    watch.lap_into(&figures->copy);
    copied = next;
  }
  // What was copied before new work came may be older than what it is a copy of.
  if (copied.block) memory_.cancel_park(*copied.block);
  if (undisturbed) retire(epoch);
  tell_needy(*parked);
  watch.lap_into(&figures->retire);
  return undisturbed;
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
  retire(epoch);
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
  retire(epoch);
  if (dropped != 0) {
    memory_.events().push(EventLevel::kInfo,
                          "dropped " + mebibytes(dropped) + " of parked contents (drop_after)");
  }
}

// An interrupted release returns at once: a submitter waits for working_. What it
// leaves to be released is done at the next tick.
bool Releaser::release(std::uint64_t epoch) {
  // What it has parked when it is interrupted is idle, too.
  released_serial_ = memory_.newest_serial();
  // What was to be given is parked now: to look at it would be to read it over PCIe.
  idle_contents_.epoch = UINT64_MAX;
  const std::vector<ExtentName> resident = memory_.extents_in(ExtentState::kResident);
  const auto begin = Clock::now();
  std::vector<ExtentName> zero, nonzero, no_room;
  ParkFigures figures;
  if (!find_nonzero(epoch, resident, &zero, &nonzero)) return false;
  figures.scan = Clock::now() - begin;
  std::uint64_t zero_bytes = 0, parked = 0, dropped = 0;
  bool complete = make_absent(epoch, zero, ProofOfAbsence::kZero, &zero_bytes);
  if (complete) retire(epoch);
  // Asked for by hand it may come before the timeout: nothing is idle enough to be
  // dropped then.
  const bool may_drop = settings_.disposable && idle_ >= settings_.idle_timeout;
  if (complete && may_drop) {
    std::uint64_t need = 0;
    for (const ExtentName& extent : nonzero) {
      need += extent.bytes() - kGranuleBytes * std::popcount(extent.zero_granules);
    }
    const std::uint64_t room =
        memory_.host_budget() - std::min(memory_.host_budget(), memory_.host_in_use());
    if (need > room) complete = drop_parked_for(epoch, need - room);
  }
  complete = complete && park(epoch, nonzero, &parked, &no_room, &figures);
  parked -= figures.zero;
  zero_bytes += figures.zero;
  if (complete && may_drop && !no_room.empty()) {
    const auto tails = std::stable_partition(no_room.begin(), no_room.end(),
                                             [](const ExtentName& e) { return !e.tail; });
    const std::vector<ExtentName> idle(no_room.begin(), tails);
    no_room.erase(no_room.begin(), tails);
    complete = make_absent(epoch, idle, ProofOfAbsence::kDroppedByRule, &dropped);
    if (complete) retire(epoch);
  }
  if (zero_bytes + parked + dropped != 0) {
    const auto took =
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
    memory_.statistics().releases.fetch_add(1);
    memory_.events().push(EventLevel::kInfo,
                          "released " + mebibytes(zero_bytes + parked + dropped) + " in " +
                              std::to_string(took) + " ms: " + mebibytes(zero_bytes) + " zero, " +
                              mebibytes(parked) + " parked in host memory, " + mebibytes(dropped) +
                              " dropped" + (complete ? "" : " (interrupted by new work)"));
    if (parked != 0) {
      memory_.events().push(EventLevel::kDebug,
                            "of that release: scan " + in_milliseconds(figures.scan) +
                                ", preparing copies " + in_milliseconds(figures.prepare) +
                                ", swaps " + in_milliseconds(figures.swap) +
                                ", releasing handles " + in_milliseconds(figures.retire) +
                                ", waiting for copies " + in_milliseconds(figures.copy));
    }
  }
  // Also what was made in host memory for want of GPU memory comes back when it can.
  if (complete && memory_.parked_bytes().returnable != 0) restorable_.store(true);
  if (complete && !no_room.empty()) warn_no_room(no_room);
  if (figures.refused != 0) warn_refused(figures.refused);
  return complete;
}

void Releaser::warn_refused(std::uint64_t bytes) {
  if (std::exchange(warned_refused_, true)) return;
  memory_.events().push(EventLevel::kWarning,
                        mebibytes(bytes) +
                            " of idle contents stay in GPU memory: the driver refused to map host "
                            "memory for their copies (which takes GPU memory for page tables)");
}

void Releaser::warn_no_room(std::span<const ExtentName> stays) {
  if (warned_no_room_++ != 0) return;
  memory_.events().push(
      EventLevel::kWarning,
      mebibytes(total_bytes(stays)) + " of idle contents stay in GPU memory: the host budget of " +
          mebibytes(memory_.host_budget()) + " is full (options host_budget, contents)");
}

}  // namespace kvshim::vmm
