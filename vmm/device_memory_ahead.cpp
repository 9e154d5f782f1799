// What is made present or split before anybody asks for it. A swap leaves a hole
// for 60 to 300 us; these are swaps while the GPU works, so each asks first
// whether anything that works may look at the absent extent (I2, I4).
#include <algorithm>

#include "vmm/device_memory.h"

namespace kvshim::vmm {

void DeviceMemory::reads_anywhere(std::span<const AbiRun> runs, std::uint64_t epoch) {
  std::lock_guard lock(mutex_);
  if (!all_present_locked(runs)) reads_anywhere_epoch_ = std::max(reads_anywhere_epoch_, epoch);
}

void DeviceMemory::note_first_slots(CUdeviceptr address, std::uint64_t bytes) {
  std::lock_guard noting(first_slots_mutex_);
  if (known_first_slots_.contains(address)) return;
  std::lock_guard lock(mutex_);
  Pool* pool = pool_of_granule(arena_.granule(address));
  if (pool == nullptr) return;
  known_first_slots_.insert(address);
  auto& slots = groups_[pool->group].first_slots;
  for (const AbiRun& run : granule_runs(address, std::max<std::uint64_t>(bytes, 1))) {
    for (std::uint32_t i = 0; i < run.count; ++i) {
      const std::uint32_t offset = run.first + i - pool->first;
      if (std::find(slots.begin(), slots.end(), offset) == slots.end()) slots.push_back(offset);
    }
  }
}

// Two places may be looked at though nothing was written there: a writer's first
// slots, and a pool's last granule, whose end an allocator may have handed to
// tensors of which nothing is known.
bool DeviceMemory::may_be_read_unwritten(const Pool& pool, const Piece& absent) const {
  return absent.offset + order_granules(absent.order) >= pool.granules ||
         holds_first_slot(pool, absent);
}

bool DeviceMemory::holds_first_slot(const Pool& pool, const Piece& piece) const {
  const std::uint32_t end = piece.offset + order_granules(piece.order);
  const auto& slots = groups_[pool.group].first_slots;
  return std::any_of(slots.begin(), slots.end(),
                     [&](std::uint32_t slot) { return slot >= piece.offset && slot < end; });
}

bool DeviceMemory::step_ahead(std::uint64_t finished_epoch) {
  if (!settings_.rows_ahead || !look_ahead_.load(std::memory_order_relaxed)) return false;
  std::lock_guard lock(mutex_);
  if (absent_can_be_swapped(finished_epoch)) {
    if (step_following_row()) {
      check("following row");
      return true;
    }
    for (Group& group : groups_) {
      if (!limits_.paused.load(std::memory_order_relaxed) && step_ahead_of(group)) {
        check("ahead");
        return true;
      }
    }
  }
  look_ahead_.store(false, std::memory_order_relaxed);  // until the next fault
  return false;
}

void DeviceMemory::nothing_ahead() {
  std::lock_guard lock(mutex_);
  following_rows_.clear();
  look_ahead_.store(false, std::memory_order_relaxed);
}

// A swap takes some 80 us, a row of 24 layers with K and V 4 ms; a layer of the
// model takes longer than its own two swaps. So the first layer's guard is answered
// at once, and the others find their pages made, or ask for theirs.
bool DeviceMemory::row_can_follow(const Row& row,
                                  std::optional<std::uint64_t> finished_epoch) const {
  if (!settings_.rows_ahead || !finished_epoch || !absent_can_be_swapped(*finished_epoch)) {
    return false;
  }
  const std::uint32_t end = row.piece.offset + order_granules(row.piece.order);
  for (Pool* sibling : groups_[row.group].pools) {
    for (std::uint32_t offset = row.piece.offset; offset < std::min(end, sibling->granules);) {
      const auto it = sibling->extent_at(offset);
      const Piece extent{it->first, it->second.order};
      if (!it->second.present() && may_be_read_unwritten(*sibling, extent)) return false;
      offset = extent.offset + order_granules(extent.order);
    }
  }
  return true;
}

void DeviceMemory::let_row_follow(const Row& row) {
  const std::vector<Pool*>& pools = groups_[row.group].pools;
  const auto asked =
      static_cast<std::size_t>(std::find(pools.begin(), pools.end(), row.pool) - pools.begin());
  const std::size_t next = (asked + 1) % pools.size();
  for (FollowingRow& following : following_rows_) {
    if (following.group != row.group) continue;
    if (std::find(following.pieces.begin(), following.pieces.end(), row.piece) !=
        following.pieces.end()) {
      following.next = next;  // the layers have got here
      following.left = pools.size() - 1;
      return;
    }
    if (following.next == next && following.left + 1 == pools.size()) {  // K and V of one fault
      following.pieces.push_back(row.piece);
      return;
    }
  }
  following_rows_.push_back({row.group, {row.piece}, next, pools.size() - 1});
  look_ahead_.store(true, std::memory_order_relaxed);
}

DeviceMemory::Ahead DeviceMemory::make_next_present(Pool& pool, const Piece& piece,
                                                    std::vector<AbiRun>* made) {
  const std::uint32_t end = std::min(piece.offset + order_granules(piece.order), pool.granules);
  for (std::uint32_t offset = piece.offset; offset < end;) {
    const auto it = pool.extent_at(offset);
    const Piece extent{it->first, it->second.order};
    if (!it->second.present()) {
      if (may_be_read_unwritten(pool, extent)) return Ahead::kNothing;
      const bool done = make_present(pool, offset, piece.order, Need::kIfRoom, made);
      return done ? Ahead::kMade : Ahead::kNoRoom;
    }
    offset = extent.offset + order_granules(extent.order);
  }
  return Ahead::kNothing;
}

bool DeviceMemory::step_following_row() {
  std::vector<AbiRun> made;
  while (!following_rows_.empty()) {
    FollowingRow& row = following_rows_.front();
    const std::vector<Pool*>& pools = groups_[row.group].pools;
    for (; row.left != 0 && !pools.empty(); --row.left, ++row.next) {
      for (const Piece& piece : row.pieces) {
        const Ahead result = make_next_present(*pools[row.next % pools.size()], piece, &made);
        if (result == Ahead::kNothing) continue;
        // No room: each layer asks for itself.
        if (result == Ahead::kNoRoom) following_rows_.clear();
        return result == Ahead::kMade;
      }
    }
    following_rows_.erase(following_rows_.begin());
  }
  return false;
}

// The bits stay clear: the guard that reaches the row asks, is answered at once,
// and the sequence is seen to go on.
bool DeviceMemory::step_ahead_of(Group& group) {
  std::vector<AbiRun> made;
  while (const std::optional<Piece> piece =
             group.fronts.ahead(read_ahead_limits(), holding(group))) {
    for (Pool* pool : group.pools) {
      const Ahead result = make_next_present(*pool, *piece, &made);
      if (result == Ahead::kNothing) continue;
      if (result == Ahead::kNoRoom) group.fronts.ahead_done(piece->offset);
      for (const AbiRun& run : made) {
        statistics_.granules_ahead.fetch_add(run.count, std::memory_order_relaxed);
      }
      return result == Ahead::kMade;
    }
    group.fronts.ahead_done(piece->offset);
  }
  return false;
}

bool DeviceMemory::make_now(const AbiRun& run) {
  Pool* pool = pool_of_granule(run.first);
  if (pool == nullptr) return true;
  const std::uint32_t begin = run.first - pool->first;
  const std::uint32_t end = std::min(begin + run.count, pool->granules);
  for (auto it = pool->extent_at(begin); it != pool->extents.end() && it->first < end; ++it) {
    if (!it->second.present() && may_be_read_unwritten(*pool, {it->first, it->second.order})) {
      return false;
    }
  }
  std::vector<AbiRun> made;
  const AbiRun within{run.first, end - begin};
  make_exactly_present(std::span(&within, 1), &made);
  return true;
}

// In portions, so that a fault doesn't wait for a whole large range. Where neighbours may make
// room it is the guard's: the fault server asks them, and makes pages in host memory only then.
// Else the guard would get no better ones, and its stream may wait for the calling thread.
bool DeviceMemory::make_present_now(std::span<const AbiRun> runs, std::uint64_t finished_epoch) {
  constexpr std::uint32_t kPortion = 64;
  for (const AbiRun& run : runs) {
    for (std::uint32_t at = 0; at < run.count; at += kPortion) {
      const AbiRun portion{run.first + at, std::min(kPortion, run.count - at)};
      std::lock_guard lock(mutex_);
      if (!absent_can_be_swapped(finished_epoch) ||
          room_.neighbours_may_make(still_to_be_made(std::span(&portion, 1), false)) ||
          !make_now(portion)) {
        return false;
      }
      check("present now");
    }
  }
  return all_present(runs);
}

bool DeviceMemory::split_at_first_slots() {
  std::lock_guard lock(mutex_);
  for (Group& group : groups_) {
    for (const std::uint32_t slot : group.first_slots) {
      for (Pool* pool : group.pools) {
        if (slot >= pool->granules) continue;
        const auto it = pool->extent_at(slot);
        if (it->second.present() || it->second.order == 0) continue;
        if (split_absent(*pool, slot)) {
          check("split");
          return true;
        }
        return false;
      }
    }
  }
  return false;
}

bool DeviceMemory::split_absent(Pool& pool, std::uint32_t offset) {
  const auto it = pool.extent_at(offset);
  const Piece whole{it->first, it->second.order};
  const Piece single = aligned_piece(pool.first, offset, 0);
  std::vector<Piece> pieces = buddies_around(whole, single, pool.first);
  pieces.push_back(single);
  mapper_.begin_swap(address_of(pool, whole.offset), order_bytes(whole.order));
  bool ok = mapper_.unmap(address_of(pool, whole.offset), order_bytes(whole.order)) == CUDA_SUCCESS;
  if (ok) {
    ok = mapper_.map_zero(address_of(pool, 0), pieces) == CUDA_SUCCESS;
    if (!ok) map_as_recorded(pool, whole.offset, it->second);
  }
  mapper_.end_swap();
  if (!ok) return false;
  pool.extents.erase(it);
  for (const Piece& piece : pieces) {
    pool.extents.emplace(piece.offset, Extent{.order = piece.order});
  }
  return true;
}

bool DeviceMemory::next_writes_come(const Pool& pool, const Piece& block) const {
  return groups_[pool.group].fronts.near_newest(block);
}

bool DeviceMemory::near_front(const Pool& pool, const Piece& block) const {
  return next_writes_come(pool, block) || holds_first_slot(pool, block);
}

}  // namespace kvshim::vmm
