// Contents move beside work that never pauses: to the GPU what is read in host memory, to host
// memory what nobody uses. The copy engine copies them, so that no guard has to, and the next
// guard that asks for anything waits for the swaps alone: 100 to 200 us for a block, where a read
// over PCIe costs its transfer again at each step.
//
// Exact because a copy is used only if nobody can have written the block since it began: from
// then until the swap its residency bits are clear, so that whoever writes it asks first, and
// the answer voids the copy (note_written()). Work whose guard passed before the bits were clear
// has finished, for all pool work runs in the order of its submission, and the copy begins only
// after a guard behind it has asked. Work in no order, pins, guards that gave up and fills that
// need no guard void it as well. And nobody uses the block's mapping while it is swapped, for the
// same reason for which a fault's swap meets nobody (I2, I4).
//
// What no guard has seen (a form in a profile that misses a write, a pointer that nobody knows of)
// can be lost here. To map the block read-only meanwhile, as absent pages are, would make it loud,
// but is not to be had: changing the access of a mapping stops kernels and copies that read it
// (measured: docs/results/driver_semantics.md), and whoever asks for the block wants it opened.
#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

#include "vmm/device_memory.h"
#include "vmm/stopwatch.h"

namespace kvshim::vmm {
namespace {

// For one question: its guard and the stream wait 2 to 4 ms. A block costs a mapping and about as
// much for each one that is taken away (docs/results/parking.md). Enough for what is copied at
// once: a block of 32 MiB that was parked in parts of 8 MiB has five.
constexpr std::size_t kMappingsAtOnce = 48;

ExtentState state_before(MoveTo to) {
  return to == MoveTo::kGpu ? ExtentState::kParked : ExtentState::kResident;
}

}  // namespace

// --- the server thread, and whoever changes extents; under the lock ------------------

void DeviceMemory::void_moves_in(Pool& pool, std::uint32_t offset, std::uint32_t count) {
  if (moves_.empty()) return;
  const std::uint32_t end = std::min(offset + count, pool.granules);
  for (auto it = pool.extent_at(offset); it != pool.extents.end() && it->first < end; ++it) {
    moves_.make_void(it->second.move);
  }
}

// What has moved otherwise meanwhile, in a pause, say, has another number.
bool DeviceMemory::is_still_itself(const Move& move, Block* block) {
  return find_block(move.block.extent, state_before(move.to), block) &&
         std::all_of(block->first, block->last,
                     [&](const auto& entry) { return entry.second.move == move.number; });
}

bool DeviceMemory::swap_moved(const Move& move, std::size_t* mappings) {
  Block block;
  if (!is_still_itself(move, &block)) return false;
  *mappings +=
      static_cast<std::size_t>(std::distance(block.first, block.last)) + move.block.parts.size();
  const std::uint64_t bytes = move.block.extent.bytes();
  if (move.to == MoveTo::kGpu) {
    if (!swap_in(block, move.block)) return false;
    statistics_.prefetched_bytes.fetch_add(bytes, std::memory_order_relaxed);
    return true;
  }
  // It comes back when it is used, as all that is cold does.
  if (!swap_out(block, move.block, tick(), true)) return false;
  statistics_.moved_away_bytes.fetch_add(bytes, std::memory_order_relaxed);
  return true;
}

bool DeviceMemory::step_moves(std::span<const AbiRun> wanted, bool may_move, GuardPlace place) {
  if (moves_.empty()) return false;
  // The question of a guard that gave up may never have got here.
  const auto none_gave_up = [&] { return moves_.none_gave_up(give_ups_.load()); };
  if (!may_move || !none_gave_up()) {
    moves_.make_all_void();
    return false;
  }
  // What is about to be written doesn't leave.
  for (const AbiRun& run : wanted) {
    Pool* const pool = pool_of_granule(run.first);
    if (pool == nullptr) continue;
    Move* const move = moves_.find(pool->extent_at(run.first - pool->first)->second.move);
    if (move != nullptr && move->to == MoveTo::kHost) move->is_void = true;
  }
  moves_.earlier_work_has_finished(place, last_question());
  std::size_t mappings = 0;
  bool swapped = false;
  const Stopwatch watch;
  for (Move& move : moves_.moves()) {
    if (mappings >= kMappingsAtOnce) break;
    if (move.is_void || move.stage != MoveStage::kCopied) continue;
    if (!none_gave_up()) break;  // while the driver was slow: the next question voids the rest
    if (swap_moved(move, &mappings)) {
      move.number = 0;
      swapped = true;
    } else {
      move.is_void = true;
    }
  }
  if (swapped) {
    statistics_.swaps_of_moves_us.fetch_add(whole_microseconds(watch.elapsed()),
                                            std::memory_order_relaxed);
  }
  std::erase_if(moves_.moves(), [](const Move& move) { return move.number == 0; });
  check("moves");
  return swapped;
}

std::uint32_t DeviceMemory::last_question() const {
  return std::atomic_ref(kernels_->channel()->request).load();
}

std::uint32_t DeviceMemory::open_question() const {
  const std::uint32_t asked = last_question();
  return asked == std::atomic_ref(kernels_->channel()->answer).load() ? 0 : asked;
}

// --- the releasing thread --------------------------------------------------------------

// A mutex is not fair: whoever takes it again and again, 50 us at a time, keeps a waiting fault
// out for a whole loop, and its calls hold up the fault's in the driver.
bool DeviceMemory::let_guards_first() const {
  constexpr auto kAtMost = std::chrono::milliseconds(2);
  constexpr auto kPause = std::chrono::microseconds(10);
  const Stopwatch watch;
  while (open_question() != 0 && !answer_waits_for_room_.load() && !kernels_->guards_give_up()) {
    if (watch.elapsed() >= kAtMost) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

std::vector<ExtentName> DeviceMemory::unused_since(std::uint64_t tick) const {
  std::vector<ExtentName> names;
  std::lock_guard lock(mutex_);
  for (const auto& [first, pool] : pools_) {
    for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
      const Extent& extent = it->second;
      if (extent.state == ExtentState::kResident && extent.move == 0 && extent.parked_tick < tick &&
          extent.read_tick < tick && !pool->pinned(it->first, order_granules(extent.order)) &&
          !near_front(*pool, {it->first, extent.order})) {
        names.push_back(name_of(*pool, it));
      }
    }
  }
  return names;
}

// What the last answer names may have its bits set at any moment: until somebody asks again,
// clearing them means nothing.
bool DeviceMemory::may_begin(const ExtentName& name, MoveTo to, Block* block) {
  return find_block(name, state_before(to), block) &&
         !freed_.is_being_told({arena_.granule(name.address), order_granules(name.order)}) &&
         std::none_of(block->first, block->last, [&](const auto& entry) {
           return entry.second.move != 0 ||
                  std::any_of(pending_.begin(), pending_.end(), [&](const Pending& p) {
                    return p.pool == block->pool && p.extent.offset == entry.first;
                  });
         });
}

// Asked before the driver is.
bool DeviceMemory::may_begin(const ExtentName& name, MoveTo to) {
  std::lock_guard lock(mutex_);
  Block block;
  return may_begin(name, to, &block);
}

bool DeviceMemory::begin_move(const PreparedPark& prepared, MoveTo to) {
  std::lock_guard lock(mutex_);
  Block block;
  const std::uint64_t give_ups = give_ups_.load();
  // Again: to make the memory may have taken a driver that hangs as long as guards wait for it.
  if (guards_give_up() || !may_begin(prepared.extent, to, &block)) return false;
  const std::uint32_t number = moves_.begin(prepared, to, give_ups);
  for (auto it = block.first; it != block.last; ++it) it->second.move = number;
  check("begin a move");
  return true;
}

bool DeviceMemory::guards_give_up() const {
  return std::atomic_ref(kernels_->channel()->give_up).load() != 0;
}

std::uint64_t DeviceMemory::bytes_on_their_way(MoveTo to) const {
  std::lock_guard lock(mutex_);
  return moves_.bytes(to);
}

std::vector<ExtentName> DeviceMemory::begin_to_bring_home(std::span<const ExtentName> blocks,
                                                          std::uint64_t most,
                                                          std::uint64_t headroom) {
  std::vector<ExtentName> begun;
  if (guards_give_up()) return begun;
  std::uint64_t bytes = bytes_on_their_way(MoveTo::kGpu);
  for (const ExtentName& name : blocks) {
    if (bytes + name.bytes() > most || !let_guards_first()) break;
    if (!may_begin(name, MoveTo::kGpu)) continue;
    PreparedPark prepared;
    const Preparation result = prepare_return(name, headroom, &prepared);
    if (result == Preparation::kNoRoom) break;
    if (result != Preparation::kDone) continue;
    if (begin_move(prepared, MoveTo::kGpu)) {
      bytes += name.bytes();
      begun.push_back(name);
    } else {
      cancel_return(prepared);
    }
  }
  return begun;
}

std::vector<ExtentName> DeviceMemory::begin_to_send_away(std::span<const ExtentName> blocks,
                                                         std::uint64_t most) {
  std::vector<ExtentName> begun;
  if (guards_give_up()) return begun;
  std::uint64_t bytes = bytes_on_their_way(MoveTo::kHost);
  std::deque<ExtentName> left(blocks.begin(), blocks.end());
  while (!left.empty() && bytes + left.front().bytes() <= most && let_guards_first()) {
    const ExtentName name = left.front();
    left.pop_front();
    if (!may_begin(name, MoveTo::kHost)) continue;
    PreparedPark prepared;
    const Preparation result = prepare_park(name, &prepared);
    if (result == Preparation::kNoRoom || result == Preparation::kRefused) break;
    if (result == Preparation::kSplit) {
      const auto parts = halves(name);
      left.insert(left.begin(), parts.begin(), parts.end());
    } else if (result == Preparation::kDone && begin_move(prepared, MoveTo::kHost)) {
      bytes += name.bytes();
      begun.push_back(name);
    } else if (result == Preparation::kDone) {
      cancel_park(prepared);
    }
  }
  return begun;
}

void DeviceMemory::move_bits_cleared() {
  std::lock_guard lock(mutex_);
  moves_.bits_were_cleared(open_question());
}

bool DeviceMemory::moves_need_a_question() const {
  std::lock_guard lock(mutex_);
  return moves_.any_needs_a_question();
}

std::vector<AbiCopy> DeviceMemory::move_copies() {
  std::lock_guard lock(mutex_);
  std::vector<AbiCopy> copies;
  for (Move& move : moves_.moves()) {
    if (move.is_void || move.stage != MoveStage::kUnwritten) continue;
    Block block;
    move.is_void = !is_still_itself(move, &block);
    if (move.is_void) continue;
    move.stage = MoveStage::kCopying;
    const std::vector<AbiCopy> parts = move.block.copies();
    copies.insert(copies.end(), parts.begin(), parts.end());
  }
  return copies;
}

void DeviceMemory::moves_copied(bool well) {
  std::lock_guard lock(mutex_);
  moves_.copies_ended(well);
}

void DeviceMemory::forget_move(const Move& move) {
  const ExtentName& name = move.block.extent;
  if (const auto it = pools_by_id_.find(name.pool); it != pools_by_id_.end()) {
    Pool& pool = *it->second;
    const std::uint32_t end = name.offset + order_granules(name.order);
    for (auto extent = pool.extent_at(name.offset);
         extent != pool.extents.end() && extent->first < end; ++extent) {
      if (extent->second.move == move.number) extent->second.move = 0;
    }
  }
  if (move.to == MoveTo::kHost) return give_back_slabs(move.block);
  give_back_return(move.block);
}

void DeviceMemory::forget_moves_of(const Pool& pool) {
  std::erase_if(moves_.moves(), [&](const Move& move) {
    if (move.block.extent.pool != pool.id) return false;
    forget_move(move);
    return true;
  });
}

// One at a time under the lock: unmapping and releasing take 40 us and more.
void DeviceMemory::end_moves(MoveEnd which) {
  for (;;) {
    let_guards_first();
    std::lock_guard lock(mutex_);
    std::vector<Move>& moves = moves_.moves();
    const auto it = std::find_if(moves.begin(), moves.end(), [&](const Move& move) {
      Block block;
      return move.stage != MoveStage::kCopying &&
             (which == MoveEnd::kAll || (which == MoveEnd::kToGpu && move.to == MoveTo::kGpu) ||
              move.is_void || !is_still_itself(move, &block));
    });
    if (it == moves.end()) return;
    const Move ended = *it;
    moves.erase(it);
    forget_move(ended);
    check("end of a move");
  }
}

}  // namespace kvshim::vmm
