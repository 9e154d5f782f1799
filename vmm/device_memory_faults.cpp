// Faults: making granules present, rows, read-ahead. Runs in the server thread; only calls that
// return while the GPU is busy are made here.
#include <algorithm>
#include <set>
#include <utility>

#include "vmm/device_memory.h"
#include "vmm/run_list.h"
#include "vmm/stopwatch.h"

namespace kvshim::vmm {

// `refused`: what the driver said although there was room; or SUCCESS. The queue of events is
// short, and there can be a thousand of these a second: each power of two is told.
void DeviceMemory::tell_why_in_host_memory(std::uint64_t bytes, CUresult refused) {
  const std::uint64_t before = statistics_.faults_in_host_memory.load();
  if (((before + 1) & before) != 0) return;
  const auto mebibytes = [](std::uint64_t count) { return std::to_string(count >> 20) + " MiB"; };
  const std::string why =
      refused != CUDA_SUCCESS
          ? "the driver refuses (CUDA error " + std::to_string(refused) + ") though " +
                mebibytes(room_.free_estimate() + bytes) + " should be free"
      : !room_.within_limit(bytes) ? "the limit is reached"
                                   : mebibytes(room_.free_estimate()) + " are free, of which " +
                                         mebibytes(room_.floor()) + " are left alone";
  events_.push(EventLevel::kDebug, mebibytes(bytes) +
                                       " of a fault are made in host memory, for the " +
                                       std::to_string(before + 1) + ". time: " + why);
}

// GPU memory above the floor; else host memory within the budget; else, when
// the work at hand must have it, whatever there is: a slow page is better than
// a dead engine, and the floor is for the engine's own sake.
CUresult DeviceMemory::create_for_fault(std::uint8_t order, bool must,
                                        CUmemGenericAllocationHandle* handle, ExtentState* state) {
  const std::uint64_t bytes = order_bytes(order);
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  *state = ExtentState::kResident;
  const bool room = room_.take(bytes);
  if (room) result = mapper_.create_device(order, handle);
  if (result == CUDA_SUCCESS || !must) return result;
  // Absent means zero: what lay in a host page before must not show through.
  if (host_.take_zero(order, handle) == CUDA_SUCCESS) {
    *state = ExtentState::kParked;
    tell_why_in_host_memory(bytes, room ? result : CUDA_SUCCESS);
    if (statistics_.faults_in_host_memory.fetch_add(1) == 0) {
      events_.push(EventLevel::kWarning,
                   "no GPU memory for a fault: pages are made in host memory (slower, still "
                   "exact) and move to the GPU when there is room");
    }
    return CUDA_SUCCESS;
  }
  if (!room_.within_limit(bytes) && statistics_.faults_over_limit.fetch_add(1) == 0) {
    events_.push(EventLevel::kWarning,
                 "the limit is reached and the host budget is full: what the engine writes takes "
                 "GPU memory above the limit (options limit, host_budget)");
  }
  return room ? result : mapper_.create_device(order, handle);
}

// Cuts `taken` out of the absent extent `whole`. The caller's stream is parked
// on its guard, and other work that may touch the extent is ordered behind it,
// so the hole is seen by nobody.
bool DeviceMemory::swap_piece(Pool& pool, const Piece& whole, const Piece& taken,
                              CUmemGenericAllocationHandle handle) {
  const std::vector<Piece> rest = buddies_around(whole, taken, pool.first);
  const CUdeviceptr base = address_of(pool, 0);
  const CUdeviceptr place = address_of(pool, taken.offset);
  mapper_.begin_swap(address_of(pool, whole.offset), order_bytes(whole.order));
  CUresult result = mapper_.unmap(address_of(pool, whole.offset), order_bytes(whole.order));
  bool ok = false;
  if (result == CUDA_SUCCESS) {
    result = mapper_.map(place, taken.order, handle, true);
    if (result == CUDA_SUCCESS) {
      ok = mapper_.map_zero(base, rest) == CUDA_SUCCESS;
      if (!ok) mapper_.unmap(place, order_bytes(taken.order));
    }
    if (!ok && mapper_.map_zero(base, std::span(&whole, 1)) != CUDA_SUCCESS) {
      broken("I2: addresses of pool " + std::to_string(pool.id) +
             " lost their mapping: the driver refused to map (CUDA error " +
             std::to_string(result) + ")");
    }
  }
  mapper_.end_swap();
  return ok;
}

bool DeviceMemory::make_present(Pool& pool, std::uint32_t offset, std::uint8_t order, Need need,
                                std::vector<AbiRun>* runs) {
  const auto it = pool.extent_at(offset);
  const Piece whole{it->first, it->second.order};
  Piece taken = aligned_piece(pool.first, offset, std::min(order, whole.order));
  CUmemGenericAllocationHandle handle = 0;
  ExtentState state = ExtentState::kResident;
  const bool must = need == Need::kWhole || (need == Need::kOneGranule && taken.order == 0);
  CUresult result = create_for_fault(taken.order, must, &handle, &state);
  if (result != CUDA_SUCCESS && taken.order != 0) {  // one granule may still be had
    taken = aligned_piece(pool.first, offset, 0);
    result = create_for_fault(taken.order, need != Need::kIfRoom, &handle, &state);
  }
  if (result != CUDA_SUCCESS) return false;
  if (!swap_piece(pool, whole, taken, handle)) {
    if (state == ExtentState::kResident) {
      mapper_.release_device(taken.order, handle);
    } else {
      host_.give_back(taken.order, handle);
    }
    return false;
  }
  pool.extents.erase(it);
  for (const Piece& piece : buddies_around(whole, taken, pool.first)) {
    pool.extents.emplace(piece.offset, Extent{.order = piece.order});
  }
  const std::uint64_t now = tick_.load();
  pool.extents.emplace(taken.offset, Extent{.order = taken.order,
                                            .state = state,
                                            .handle = handle,
                                            .written_serial = ++serial_,
                                            .parked_tick = now,
                                            .used_tick = now});
  add_run(runs, pool.first + taken.offset, order_granules(taken.order));
  statistics_.granules_made_present.fetch_add(order_granules(taken.order),
                                              std::memory_order_relaxed);
  return true;
}

// It is about to be written. Whether that was to be found out.
bool DeviceMemory::note_written(Extent& extent) {
  moves_.make_void(extent.move);
  extent.written_serial = ++serial_;
  extent.parked_tick = extent.used_tick = tick_.load();
  extent.cold = false;
  const bool watched = std::exchange(extent.watched_tick, 0) != 0;
  asked_watched_ = asked_watched_ || watched;
  return watched;
}

// The granules asked for come first, their rows after them: when memory is
// short the siblings are left for their own faults.
std::vector<DeviceMemory::Row> DeviceMemory::make_wanted_present(std::span<const AbiRun> wanted,
                                                                 std::vector<AbiRun>* runs) {
  std::vector<Row> rows;
  for (const AbiRun& run : wanted) {
    Pool* pool = pool_of_granule(run.first);
    if (pool == nullptr) continue;
    Group& group = groups_[pool->group];
    const std::uint32_t begin = run.first - pool->first;
    const std::uint32_t end = std::min(begin + run.count, pool->granules);
    for (std::uint32_t offset = begin; offset < end;) {
      auto it = pool->extent_at(offset);
      if (!it->second.present()) {
        const std::uint8_t order =
            group.fronts.order_for(offset, read_ahead_limits(), holding(group));
        if (!make_present(*pool, offset, order, Need::kOneGranule, runs)) {
          statistics_.failed_faults.fetch_add(1);
          ++offset;
          continue;
        }
        it = pool->extent_at(offset);
        group.fronts.advance({it->first, it->second.order});
        look_ahead_.store(true, std::memory_order_relaxed);
      } else {
        const bool watched = note_written(it->second);
        add_run(runs, pool->first + it->first, order_granules(it->second.order));
        // Made ahead: its bits were left clear so that the sequence shows here. What is
        // watched was written before: no sequence.
        if (!watched && offset == it->first &&
            group.fronts.advance_if_expected({it->first, it->second.order})) {
          look_ahead_.store(true, std::memory_order_relaxed);
        }
      }
      rows.push_back({pool->group, pool, {it->first, it->second.order}});
      offset = it->first + order_granules(it->second.order);
    }
  }
  return rows;
}

void DeviceMemory::tell_row(const Row& row, std::vector<AbiRun>* runs) {
  for (Pool* sibling : groups_[row.group].pools) {
    const std::uint32_t end =
        std::min(row.piece.offset + order_granules(row.piece.order), sibling->granules);
    for (std::uint32_t offset = row.piece.offset; offset < end;) {
      const auto it = sibling->extent_at(offset);
      // Its bit may be clear (made ahead, a release that was interrupted, a
      // restore, watched): told now, it needs no question of its own. What is cold asks
      // for itself: then it comes back, and its row with it.
      if (it->second.present() && !it->second.cold) {
        note_written(it->second);
        add_run(runs, sibling->first + it->first, order_granules(it->second.order));
      }
      offset = it->first + order_granules(it->second.order);
    }
  }
}

void DeviceMemory::make_row_present(const Row& row, std::vector<AbiRun>* runs) {
  for (Pool* sibling : groups_[row.group].pools) {
    std::uint32_t offset = row.piece.offset;
    const std::uint32_t end = std::min(offset + order_granules(row.piece.order), sibling->granules);
    while (offset < end) {
      auto it = sibling->extent_at(offset);
      if (it->second.present()) {
        if (!it->second.cold) {
          note_written(it->second);
          add_run(runs, sibling->first + it->first, order_granules(it->second.order));
        }
      } else if (!make_present(*sibling, offset, row.piece.order, Need::kIfRoom, runs)) {
        break;
      }
      it = sibling->extent_at(offset);
      offset = it->first + order_granules(it->second.order);
    }
  }
}

// Ranges and unknown kernels: just what was asked for, in as few extents as
// the absent ones allow.
void DeviceMemory::make_exactly_present(std::span<const AbiRun> wanted, std::vector<AbiRun>* runs) {
  std::set<GranuleIndex> granules;
  for (const AbiRun& run : wanted) {
    for (std::uint32_t i = 0; i < run.count; ++i) granules.insert(run.first + i);
  }
  for (auto granule = granules.begin(); granule != granules.end();) {
    Pool* pool = pool_of_granule(*granule);
    if (pool == nullptr) {
      ++granule;
      continue;
    }
    const std::uint32_t offset = *granule - pool->first;
    auto it = pool->extent_at(offset);
    if (it->second.present()) {
      note_written(it->second);
      add_run(runs, pool->first + it->first, order_granules(it->second.order));
    } else {
      std::uint8_t order = it->second.order;
      const auto covered = [&](std::uint8_t candidate) {
        const Piece piece = aligned_piece(pool->first, offset, candidate);
        for (std::uint32_t i = 0; i < order_granules(candidate); ++i) {
          if (!granules.contains(pool->first + piece.offset + i)) return false;
        }
        return true;
      };
      while (order > 0 && !covered(order)) --order;
      if (!make_present(*pool, offset, order, Need::kWhole, runs)) {
        statistics_.failed_faults.fetch_add(1);
        ++granule;
        continue;
      }
      it = pool->extent_at(offset);
    }
    granule = granules.lower_bound(pool->first + it->first + order_granules(it->second.order));
  }
}

FaultAnswer DeviceMemory::fault(std::span<const AbiRun> wanted, bool rows,
                                std::optional<std::uint64_t> finished_epoch, GuardPlace place) {
  const Stopwatch watch;
  std::lock_guard lock(mutex_);
  const auto waited = watch.elapsed();
  freed_.asked();
  drop_pending();
  moves_.question_comes();
  const bool may_move = parked_may_move(finished_epoch);
  const bool swapped = step_moves(wanted, may_move, place);
  for (const AbiRun& run : wanted) {
    Pool* pool = pool_of_granule(run.first);
    if (pool == nullptr || !may_move) continue;
    const std::uint32_t begin = run.first - pool->first;
    const std::uint32_t end = std::min(begin + run.count, pool->granules);
    for (std::uint32_t offset = begin; offset < end; ++offset) {
      if (pool->extent_at(offset)->second.state != ExtentState::kParked) continue;
      want_promotion(*pool, offset);
      if (!rows) continue;
      for (Pool* sibling : groups_[pool->group].pools) {
        // A sibling that is pinned may be written by work that the gate doesn't see
        // (an escaped pool): not copied under it for a row's sake.
        if (offset < sibling->granules && !sibling->pinned(offset, 1)) {
          want_promotion(*sibling, offset);
        }
      }
    }
  }
  if (pending_.empty()) {
    FaultAnswer all = answer(wanted, rows, finished_epoch);
    all.only_watched = all.only_watched && !swapped;
    all.waited = waited;
    freed_.told(all.runs);
    return all;
  }
  FaultAnswer first;
  first.kind = AnswerKind::kCopyFirst;
  first.waited = waited;
  for (const Pending& p : pending_) {
    first.copies.push_back({p.extent.address, p.part.staging, p.extent.bytes()});
  }
  pending_wanted_.clear();
  for (const AbiRun& run : wanted) {
    // An answer must bring progress: without a copy of its own it is answered in place.
    if (rows || !moves_later(run)) pending_wanted_.push_back(run);
  }
  pending_rows_ = rows;
  return first;
}

FaultAnswer DeviceMemory::copied(std::optional<std::uint64_t> finished_epoch) {
  const Stopwatch watch;
  std::lock_guard lock(mutex_);
  const auto waited = watch.elapsed();
  freed_.asked();
  std::vector<AbiRun> promoted;
  if (parked_may_move(finished_epoch)) {
    finish_pending(&promoted);
  } else {
    drop_pending();  // and answered in place
  }
  FaultAnswer all = answer(pending_wanted_, pending_rows_, finished_epoch);
  all.runs.insert(all.runs.end(), promoted.begin(), promoted.end());
  all.only_watched = false;
  all.waited = waited;
  freed_.told(all.runs);
  pending_wanted_.clear();
  check("copied");
  return all;
}

FaultAnswer DeviceMemory::answer(std::span<const AbiRun> wanted, bool rows,
                                 std::optional<std::uint64_t> finished_epoch) {
  FaultAnswer result;
  const std::uint64_t made = statistics_.granules_made_present.load(std::memory_order_relaxed);
  asked_watched_ = false;
  if (rows) {
    for (const Row& row : make_wanted_present(wanted, &result.runs)) {
      if (row_can_follow(row, finished_epoch)) {
        tell_row(row, &result.runs);
        let_row_follow(row);
      } else {
        make_row_present(row, &result.runs);
      }
    }
  } else {
    make_exactly_present(wanted, &result.runs);
  }
  if (result.runs.empty()) {
    result.kind = AnswerKind::kFailed;
    // A graph's guard may outlive its pool; then nothing is wrong.
    if (std::none_of(wanted.begin(), wanted.end(),
                     [&](const AbiRun& run) { return pool_of_granule(run.first) != nullptr; })) {
      moves_.question_was_refused();
      if (wanted.size() == kMaxWantedRuns) moves_.make_all_void();  // it may have wanted more
      return result;
    }
    moves_.make_all_void();  // its guard lets work pass that has not been told
    events_.push(EventLevel::kError,
                 "a fault could not be served: neither GPU nor host memory could be had; the "
                 "engine will stop with an illegal address. Free memory on this GPU or raise "
                 "host_budget");
  }
  result.only_watched =
      asked_watched_ && made == statistics_.granules_made_present.load(std::memory_order_relaxed);
  check("fault");
  return result;
}

}  // namespace kvshim::vmm
