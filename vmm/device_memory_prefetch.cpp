// Prefetch: parked contents come back beside work that never pauses. The copy engine copies
// them, so that no guard has to, and the next guard that asks for anything waits for the swaps
// alone: some 80 us for a block whatever its size, where a read over PCIe costs its transfer
// again at each step.
//
// Exact because a copy is used only if nobody can have written the block since it began: from
// then until the swap its residency bits are clear, so that whoever writes it asks first, and
// the answer voids the copy (note_written()). Work whose guard passed before the bits were clear
// has finished, for all pool work runs in the order of its submission, and the copy begins only
// after a guard behind it has asked. Work in no order, pins, guards that gave up and fills that
// need no guard void it as well.
#include <algorithm>
#include <utility>

#include "vmm/device_memory.h"

namespace kvshim::vmm {
namespace {

// For one question: with some 80 us each the guard and its stream wait 2 to 3 ms.
constexpr std::size_t kSwapsAtOnce = 32;

}  // namespace

// --- the server thread, and whoever changes extents; under the lock ------------------

Prefetch* DeviceMemory::find_prefetch(std::uint32_t number) {
  const auto it = std::find_if(prefetches_.begin(), prefetches_.end(),
                               [&](const Prefetch& one) { return one.number == number; });
  return number == 0 || it == prefetches_.end() ? nullptr : &*it;
}

void DeviceMemory::void_prefetch(Extent& extent) {
  if (Prefetch* const prefetch = find_prefetch(extent.prefetch)) prefetch->is_void = true;
}

void DeviceMemory::void_prefetches() {
  for (Prefetch& prefetch : prefetches_) prefetch.is_void = true;
}

void DeviceMemory::void_prefetches_in(Pool& pool, std::uint32_t offset, std::uint32_t count) {
  if (prefetches_.empty()) return;
  const std::uint32_t end = std::min(offset + count, pool.granules);
  for (auto it = pool.extent_at(offset); it != pool.extents.end() && it->first < end; ++it) {
    void_prefetch(it->second);
  }
}

bool DeviceMemory::is_being_copied(const Extent& extent) {
  const Prefetch* const prefetch = find_prefetch(extent.prefetch);
  return prefetch != nullptr && prefetch->stage == PrefetchStage::kCopying;
}

// What was parked anew meanwhile, by a return in a pause, say, has another number.
bool DeviceMemory::is_still_itself(const Prefetch& prefetch, Block* block) {
  return find_block(prefetch.block.extent, ExtentState::kParked, block) &&
         std::all_of(block->first, block->last,
                     [&](const auto& entry) { return entry.second.prefetch == prefetch.number; });
}

void DeviceMemory::step_prefetches(bool may_move) {
  if (prefetches_.empty()) return;
  // The question of a guard that gave up may never have got here.
  if (!may_move || give_ups_.load() != give_ups_before_prefetch_) return void_prefetches();
  std::size_t swaps = 0;
  for (Prefetch& prefetch : prefetches_) {
    if (prefetch.is_void) continue;
    if (prefetch.stage == PrefetchStage::kBitsClear) prefetch.stage = PrefetchStage::kUnwritten;
    if (prefetch.stage != PrefetchStage::kCopied || swaps == kSwapsAtOnce) continue;
    ++swaps;
    Block block;
    prefetch.is_void = !is_still_itself(prefetch, &block) || !swap_in(block, prefetch.block);
    if (prefetch.is_void) continue;
    prefetch.number = 0;
    statistics_.prefetched_bytes.fetch_add(prefetch.block.extent.bytes(),
                                           std::memory_order_relaxed);
  }
  std::erase_if(prefetches_, [](const Prefetch& prefetch) { return prefetch.number == 0; });
  check("prefetch");
}

// --- the releasing thread --------------------------------------------------------------

std::vector<ExtentName> DeviceMemory::read_while_parked(std::uint64_t read_since) const {
  std::vector<ExtentName> blocks;
  {
    std::lock_guard lock(mutex_);
    std::vector<Extents::const_iterator> found;
    for (const auto& [first, pool] : pools_) {
      found.clear();
      for (auto it = pool->extents.cbegin(); it != pool->extents.cend(); ++it) {
        const Extent& extent = it->second;
        if (extent.state == ExtentState::kParked && !extent.cold && extent.prefetch == 0 &&
            extent.read_tick != 0 && extent.read_tick >= read_since &&
            !pool->pinned(it->first, order_granules(extent.order))) {
          found.push_back(it);
        }
      }
      add_blocks(*pool, found, false, &blocks);
    }
  }
  // Rows were written in turn, so that the layers of one stand beside each other.
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const ExtentName& a, const ExtentName& b) { return a.written > b.written; });
  return blocks;
}

bool DeviceMemory::begin_prefetch(const PreparedPark& prepared) {
  std::lock_guard lock(mutex_);
  Block block;
  const bool is_free =
      find_block(prepared.extent, ExtentState::kParked, &block) &&
      std::none_of(block.first, block.last, [&](const auto& entry) {
        return entry.second.prefetch != 0 ||
               std::any_of(pending_.begin(), pending_.end(), [&](const Pending& p) {
                 return p.pool == block.pool && p.offset == entry.first;
               });
      });
  if (!is_free) return false;
  if (prefetches_.empty()) give_ups_before_prefetch_ = give_ups_.load();
  last_prefetch_ = std::max<std::uint32_t>(last_prefetch_ + 1, 1);
  for (auto it = block.first; it != block.last; ++it) it->second.prefetch = last_prefetch_;
  prefetches_.push_back({last_prefetch_, prepared});
  check("begin prefetch");
  return true;
}

std::vector<ExtentName> DeviceMemory::prefetch(std::uint64_t read_since, std::uint64_t most,
                                               std::uint64_t headroom) {
  std::vector<ExtentName> begun;
  if (std::atomic_ref(kernels_->channel()->give_up).load() != 0) return begun;
  std::uint64_t bytes = 0;
  for (const ExtentName& name : read_while_parked(read_since)) {
    if (bytes + name.bytes() > most) break;
    PreparedPark prepared;
    const Preparation result = prepare_return(name, headroom, &prepared);
    if (result == Preparation::kNoRoom) break;
    if (result != Preparation::kDone) continue;
    if (begin_prefetch(prepared)) {
      bytes += name.bytes();
      begun.push_back(name);
    } else {
      cancel_return(prepared);
    }
  }
  return begun;
}

void DeviceMemory::prefetch_bits_cleared() {
  std::lock_guard lock(mutex_);
  for (Prefetch& prefetch : prefetches_) {
    if (prefetch.stage == PrefetchStage::kChosen) prefetch.stage = PrefetchStage::kBitsClear;
  }
}

bool DeviceMemory::prefetch_needs_a_question() const {
  std::lock_guard lock(mutex_);
  return std::any_of(prefetches_.begin(), prefetches_.end(), [](const Prefetch& prefetch) {
    return !prefetch.is_void && prefetch.stage != PrefetchStage::kUnwritten;
  });
}

std::vector<AbiCopy> DeviceMemory::prefetch_copies() {
  std::lock_guard lock(mutex_);
  std::vector<AbiCopy> copies;
  for (Prefetch& prefetch : prefetches_) {
    if (prefetch.is_void || prefetch.stage != PrefetchStage::kUnwritten) continue;
    Block block;
    prefetch.is_void = !is_still_itself(prefetch, &block);
    if (prefetch.is_void) continue;
    prefetch.stage = PrefetchStage::kCopying;
    const ExtentName& extent = prefetch.block.extent;
    copies.push_back({extent.address, prefetch.block.staging, extent.bytes()});
  }
  return copies;
}

void DeviceMemory::prefetch_copied(bool well) {
  std::lock_guard lock(mutex_);
  for (Prefetch& prefetch : prefetches_) {
    if (prefetch.stage != PrefetchStage::kCopying) continue;
    prefetch.stage = PrefetchStage::kCopied;
    prefetch.is_void = prefetch.is_void || !well;
  }
}

void DeviceMemory::forget_prefetch(const Prefetch& prefetch) {
  const ExtentName& name = prefetch.block.extent;
  if (const auto it = pools_by_id_.find(name.pool); it != pools_by_id_.end()) {
    Pool& pool = *it->second;
    const std::uint32_t end = name.offset + order_granules(name.order);
    for (auto extent = pool.extent_at(name.offset);
         extent != pool.extents.end() && extent->first < end; ++extent) {
      if (extent->second.prefetch == prefetch.number) extent->second.prefetch = 0;
    }
  }
  leave_staging(return_staging_, prefetch.block.staging, name.bytes());
  mapper_.release_device(name.order, prefetch.block.host_handle);
  preparing_device_ -= name.bytes();
}

void DeviceMemory::forget_prefetches_of(const Pool& pool) {
  std::erase_if(prefetches_, [&](const Prefetch& prefetch) {
    if (prefetch.block.extent.pool != pool.id) return false;
    forget_prefetch(prefetch);
    return true;
  });
}

// One at a time under the lock: unmapping and releasing take 40 us and more.
void DeviceMemory::end_prefetches(PrefetchEnd which) {
  for (;;) {
    std::lock_guard lock(mutex_);
    const auto it = std::find_if(prefetches_.begin(), prefetches_.end(), [&](Prefetch& prefetch) {
      Block block;
      return prefetch.stage != PrefetchStage::kCopying &&
             (which == PrefetchEnd::kAll || prefetch.is_void || !is_still_itself(prefetch, &block));
    });
    if (it == prefetches_.end()) return;
    const Prefetch ended = *it;
    prefetches_.erase(it);
    forget_prefetch(ended);
    check("end of a prefetch");
  }
}

}  // namespace kvshim::vmm
