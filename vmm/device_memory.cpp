// Pools: making, freeing, views and invariants. Faults and release are in
// device_memory_faults.cpp and device_memory_release.cpp.
#include "vmm/device_memory.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "vmm/context_scope.h"

namespace kvshim::vmm {
namespace {
constexpr std::size_t kStagingSlots = kMaxCopies;
std::atomic<std::uint64_t> next_pool_id{1};
}  // namespace

DeviceMemory::DeviceMemory(const DriverApi& driver, Arena& arena, PoolTable& table, CUdevice device,
                           CUcontext context, std::unique_ptr<DeviceKernels> kernels,
                           DeviceSettings settings)
    : driver_(driver),
      arena_(arena),
      table_(table),
      device_(device),
      context_(context),
      settings_(settings),
      kernels_(std::move(kernels)),
      read_marks_(settings.follow_reads, kernels_->mark_channel()),
      mapper_(driver, device, settings.host_numa_node, settings.pressure),
      room_(driver, mapper_, limits_, settings.pressure),
      host_(driver, mapper_, settings.host_budget),
      fault_staging_(driver, kStagingSlots),
      return_staging_(driver, kStagingSlots) {}

CUresult DeviceMemory::allocate(std::size_t bytes, const std::string& group, CUcontext context,
                                const PoolRecord** record) {
  std::lock_guard allocating(allocating_);
  RelaxedCaptureScope relaxed(driver_);
  const std::size_t mapped = round_up_to_granule(bytes);
  const auto granules = static_cast<std::uint32_t>(mapped >> kGranuleShift);
  // An engine allocates the pools that it has computed before the first: a limit that comes in
  // between (a group's, which holds from when the process is a member) must not refuse the rest.
  {
    std::lock_guard lock(mutex_);
    if (pools_.empty()) sized_under_ = limit_told();
  }
  std::size_t free_for_pools = 0, total = 0;
  CUresult result = memory_info_under(sized_under_, &free_for_pools, &total);
  if (result != CUDA_SUCCESS) return result;
  // The first comparison also keeps what follows from overflowing.
  if (bytes > total || free_for_pools < mapped) return CUDA_ERROR_OUT_OF_MEMORY;

  std::vector<GranuleRun> dirty;
  {
    std::lock_guard lock(mutex_);
    room_.set_floor(std::max<std::uint64_t>(std::uint64_t{512} << 20, total / 100));
    dirty = freed_.take_settled();
  }
  // Bits of a freed pool's addresses may still say present; they must be
  // clear before the addresses mean another pool (I9).
  if (!dirty.empty()) {
    result = clear_freed(dirty);
    if (result != CUDA_SUCCESS) {
      std::lock_guard lock(mutex_);
      freed_.put_back(dirty);
      return result;
    }
    for (const GranuleRun& run : dirty) arena_.give_back(run.first, run.count);
  }

  const std::optional<GranuleIndex> first = arena_.take(granules);
  if (!first) {
    static std::atomic<bool> said{false};  // once: an engine may try each of many tensors
    if (!said.exchange(true)) {
      events_.push(EventLevel::kError,
                   "the arena is full: set arena_size to more than the sum of all pools");
    }
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  {
    std::lock_guard noting(first_slots_mutex_);  // of pools that were here before
    std::erase_if(known_first_slots_,
                  [&](CUdeviceptr slot) { return slot - arena_.address(*first) < mapped; });
  }
  auto pool = std::make_unique<Pool>(next_pool_id.fetch_add(1), *first, granules, bytes);
  const std::vector<Piece> pieces = cut_into_pieces(*first, 0, granules);
  {
    std::lock_guard lock(mutex_);
    // Of every order, now: a later fault on a full GPU could not have them.
    for (unsigned order = 0; order < kOrders && result == CUDA_SUCCESS; ++order) {
      CUmemGenericAllocationHandle zero = 0;
      result = mapper_.zero_handle(Mapper::zero_order(order), &zero);
    }
    if (result == CUDA_SUCCESS) result = mapper_.map_zero(arena_.address(*first), pieces);
    if (result == CUDA_SUCCESS) {
      for (const Piece& piece : pieces) {
        pool->extents.emplace(piece.offset, Extent{.order = piece.order});
      }
      auto it = std::find_if(groups_.begin(), groups_.end(),
                             [&](const Group& g) { return g.name == group; });
      if (it == groups_.end()) {
        it = groups_.emplace(groups_.end());
        it->name = group;
      }
      pool->group = static_cast<std::size_t>(it - groups_.begin());
      it->pools.push_back(pool.get());
      const PoolRecord* made = &every_record_.emplace_back(
          PoolRecord{pool->id, arena_.address(*first), bytes, mapped, device_, context, this});
      records_[pool->id] = made;
      pools_by_id_[pool->id] = pool.get();
      pools_[*first] = std::move(pool);
      table_.insert(made);
      *record = made;
      check("allocate");
      return CUDA_SUCCESS;
    }
    if (pools_.empty()) mapper_.release_zero_handles();
  }
  arena_.give_back(*first, granules);
  return result;
}

// Waits: only allocations, which are ordered anyway, wait for it.
CUresult DeviceMemory::clear_freed(std::span<const GranuleRun> freed) {
  CUresult result = CUDA_SUCCESS;
  for (std::size_t at = 0; at < freed.size() && result == CUDA_SUCCESS;
       at += DeviceKernels::kScanCapacity) {
    std::vector<AbiRun> runs;
    for (const GranuleRun& run : freed.subspan(
             at, std::min<std::size_t>(DeviceKernels::kScanCapacity, freed.size() - at))) {
      runs.push_back({run.first, run.count});
    }
    result = kernels_->launch_clear(runs, DeviceKernels::ClearUser::kAllocation);
    while (result == CUDA_SUCCESS &&
           (result = driver_.cuStreamQuery(kernels_->stream())) == CUDA_ERROR_NOT_READY) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      result = CUDA_SUCCESS;
    }
  }
  return result;
}

CUresult DeviceMemory::free(CUdeviceptr base, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  auto it = pools_.find(arena_.granule(base));
  // However long they take (a GPU that many share in turns, a debugger): their copies read the
  // pool's addresses. A guard that gave up between is known by its work's end (no_guard_runs).
  const auto end = std::chrono::steady_clock::now() + patience;
  const auto is_copied = [&](const Pool& pool) {
    return std::any_of(pending_.begin(), pending_.end(),
                       [&](const Pending& p) { return p.pool == &pool; }) ||
           moves_.any_of([&](const Move& move) {
             return move.block.extent.pool == pool.id && move.stage == MoveStage::kCopying;
           });
  };
  while (it != pools_.end() && is_copied(*it->second)) {
    if (std::chrono::steady_clock::now() >= end) return CUDA_ERROR_NOT_READY;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    lock.lock();
    it = pools_.find(arena_.granule(base));
  }
  if (it == pools_.end() || address_of(*it->second, 0) != base) return CUDA_ERROR_INVALID_VALUE;
  Pool& pool = *it->second;
  table_.erase(*records_.at(pool.id));
  records_.erase(pool.id);
  forget_moves_of(pool);
  // The staging mapping of what came back would keep its memory alive.
  unmap_retired_staging(retired_staging_.size());
  CUresult result = CUDA_SUCCESS;
  for (auto& [offset, extent] : pool.extents) {
    const CUresult unmapped = mapper_.unmap(address_of(pool, offset), order_bytes(extent.order));
    if (unmapped != CUDA_SUCCESS && result == CUDA_SUCCESS) result = unmapped;
    if (extent.state == ExtentState::kResident) mapper_.release_device(extent.order, extent.handle);
    if (extent.state == ExtentState::kParked) host_.give_back(extent.order, extent.handle);
  }
  Group& group = groups_[pool.group];
  std::erase(group.pools, &pool);
  following_rows_.clear();  // they name pools by index
  if (group.pools.empty()) {
    group.fronts = Fronts{};
    group.first_slots.clear();
  }
  freed_.add({pool.first, pool.granules});
  pools_by_id_.erase(pool.id);
  pools_.erase(it);
  if (pools_.empty()) {
    host_.trim(0);
    mapper_.release_zero_handles();
    fault_staging_.release();
    return_staging_.release();
  }
  check("free");
  // The engine must not see an error for memory that is gone; a driver that
  // is shutting down answers DEINITIALIZED, which is how cuMemFree answers too.
  return result;
}

void DeviceMemory::no_guard_runs() {
  std::lock_guard lock(mutex_);
  drop_pending();
  freed_.no_guard_runs();
  check("no guard runs");
}

void DeviceMemory::give_addresses_back() {
  std::lock_guard lock(mutex_);
  for (const GranuleRun& run : freed_.take_all()) arena_.give_back(run.first, run.count);
}

Pool* DeviceMemory::pool_of_granule(GranuleIndex granule) const {
  auto it = pools_.upper_bound(granule);
  if (it == pools_.begin()) return nullptr;
  Pool* pool = std::prev(it)->second.get();
  return granule - pool->first < pool->granules ? pool : nullptr;
}

Extent* DeviceMemory::named_extent(const ExtentName& name, ExtentState state, Pool** pool) const {
  const auto it = pools_by_id_.find(name.pool);
  if (it == pools_by_id_.end()) return nullptr;
  const auto extent = it->second->extents.find(name.offset);
  if (extent == it->second->extents.end() || extent->second.order != name.order ||
      extent->second.state != state) {
    return nullptr;
  }
  *pool = it->second;
  return &extent->second;
}

std::vector<AbiRun> DeviceMemory::granule_runs(CUdeviceptr address, std::size_t bytes) const {
  const PoolRecord* record = table_.find(address);
  if (record == nullptr || bytes == 0) return {};
  const CUdeviceptr pool_end = record->base + record->mapped_bytes;
  const CUdeviceptr end = bytes < pool_end - address ? address + bytes : pool_end;
  const GranuleIndex first = arena_.granule(address);
  return {{first, arena_.granule(end - 1) - first + 1}};
}

void DeviceMemory::pin(CUdeviceptr address, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  for (const AbiRun& run : granule_runs(address, bytes)) {
    if (Pool* pool = pool_of_granule(run.first)) {
      pool->pin(run.first - pool->first, run.count);
      void_moves_in(*pool, run.first - pool->first, run.count);
    }
  }
}

void DeviceMemory::pin(std::span<const AbiRun> runs) {
  std::lock_guard lock(mutex_);
  for (const AbiRun& run : runs) {
    Pool* pool = pool_of_granule(run.first);
    if (pool == nullptr) continue;
    const std::uint32_t begin = run.first - pool->first;
    pool->pin(begin, std::min(run.count, pool->granules - begin));
    void_moves_in(*pool, begin, run.count);
  }
}

bool DeviceMemory::all_present(std::span<const AbiRun> runs) const {
  std::lock_guard lock(mutex_);
  return all_present_locked(runs);
}

bool DeviceMemory::all_present_locked(std::span<const AbiRun> runs) const {
  for (const AbiRun& run : runs) {
    Pool* pool = pool_of_granule(run.first);
    if (pool == nullptr) continue;
    const std::uint32_t begin = run.first - pool->first;
    const std::uint32_t end = std::min(begin + run.count, pool->granules);
    for (auto it = pool->extent_at(begin); it != pool->extents.end() && it->first < end; ++it) {
      if (!it->second.present()) return false;
    }
  }
  return true;
}

void DeviceMemory::unpin(std::uint64_t id, CUdeviceptr address, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  for (const AbiRun& run : granule_runs(address, bytes)) {
    Pool* pool = pool_of_granule(run.first);
    if (pool != nullptr && pool->id == id) pool->unpin(run.first - pool->first, run.count);
  }
}

void DeviceMemory::written_unasked(std::span<const AbiRun> runs) {
  std::lock_guard lock(mutex_);
  if (moves_.empty()) return;
  for (const AbiRun& run : runs) {
    if (Pool* pool = pool_of_granule(run.first)) {
      void_moves_in(*pool, run.first - pool->first, run.count);
    }
  }
}

std::vector<PoolFigures> DeviceMemory::pools() const {
  std::lock_guard lock(mutex_);
  std::vector<PoolFigures> all;
  for (const auto& [first, pool] : pools_) {
    PoolFigures f;
    f.id = pool->id;
    f.bytes = pool->bytes;
    f.base = arena_.address(first);
    f.group = groups_[pool->group].name;
    f.pinned = pool->pinned(0, pool->granules);
    for (const auto& [offset, extent] : pool->extents) {
      std::uint64_t& sum = extent.state == ExtentState::kResident ? f.resident
                           : extent.state == ExtentState::kParked ? f.parked
                                                                  : f.absent;
      sum += order_bytes(extent.order);
    }
    all.push_back(std::move(f));
  }
  return all;
}

PhysicalBytes DeviceMemory::physical() const {
  std::lock_guard lock(mutex_);
  return mapper_.physical();
}
std::size_t DeviceMemory::pool_count() const {
  std::lock_guard lock(mutex_);
  return pools_.size();
}
std::uint64_t DeviceMemory::host_in_use() const {
  std::lock_guard lock(mutex_);
  return host_.in_use();
}

std::string DeviceMemory::broken_invariant() const {
  std::lock_guard lock(mutex_);
  return broken_invariant_locked();
}

std::string DeviceMemory::broken_invariant_locked() const {
  if (!broken_.empty()) return broken_;
  std::uint64_t device = preparing_device_, host = 0;
  for (const auto& [first, pool] : pools_) {
    if (std::string what = pool->broken_invariant(); !what.empty()) return what;
    for (const auto& [offset, extent] : pool->extents) {
      if (extent.state == ExtentState::kResident) device += order_bytes(extent.order);
      if (extent.state != ExtentState::kParked) continue;
      host += order_bytes(extent.order);
      if (host_.window_is_busy(extent.handle)) return "I4: something is copied to a parked extent";
    }
  }
  // In flight: promotions hold device handles, retired handles wait for their
  // release. (Prepared parks hold host handles: counted by the store as used.)
  for (const Pending& p : pending_) device += p.extent.bytes();
  for (const Retired& r : retired_) (r.host ? host : device) += order_bytes(r.order);
  if (device != mapper_.physical().device) {
    return "I5: device bytes counted " + std::to_string(mapper_.physical().device) + ", held " +
           std::to_string(device);
  }
  if (host > host_.in_use() || host_.in_use() + host_.cached() != mapper_.physical().host) {
    return "I5: host bytes counted " + std::to_string(mapper_.physical().host) + ", in use " +
           std::to_string(host_.in_use()) + ", cached " + std::to_string(host_.cached()) +
           ", held by extents " + std::to_string(host);
  }
  return host_.broken_invariant();
}

void DeviceMemory::broken(const std::string& what) {
  // At exit the driver goes first (I8): then nothing is mapped for anybody.
  std::size_t free = 0, total = 0;
  if (driver_.cuMemGetInfo_v2(&free, &total) == CUDA_ERROR_DEINITIALIZED) return;
  if (broken_.empty()) broken_ = what;
  events_.push(EventLevel::kError, what);
}

void DeviceMemory::check([[maybe_unused]] const char* after) const {
#ifdef KVSHIM_CHECK_INVARIANTS
  if (const std::string what = broken_invariant_locked(); !what.empty()) {
    std::fprintf(stderr, "kvshim: invariant broken after %s: %s\n", after, what.c_str());
    std::abort();
  }
#endif
}

}  // namespace kvshim::vmm
