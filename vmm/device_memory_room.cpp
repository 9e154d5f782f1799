// How much there is: the GPU's free memory, the process's limit, and what an engine
// is told of both.
#include <algorithm>

#include "vmm/device_memory.h"
#include "vmm/steady_figure.h"
#include "vmm/stopwatch.h"

namespace kvshim::vmm {
namespace {

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from > what ? from - what : 0; }

}  // namespace

// --- what an engine is told -------------------------------------------------------

// The driver's figure is read under the lock: else memory released between the two
// figures counts as taken. What neighbours hold is theirs to change at any time, told before
// they make it and after they released it.
CUresult DeviceMemory::memory_info(std::size_t* free, std::size_t* total) const {
  return memory_info_under(limit_told(), free, total);
}

DeviceMemory::LimitTold DeviceMemory::limit_told() const {
  return {std::max(limits_.limit.load(), limits_.shown.load()), limits_.shown_taken.load()};
}

CUresult DeviceMemory::memory_info_under(const LimitTold& told, std::size_t* free,
                                         std::size_t* total) const {
  Pressure* const pressure = settings_.pressure;
  std::uint64_t elsewhere = 0, full_size = 0, without_pools = 0;
  const CUresult result = read_beside(
      [&]() -> CUresult {
        std::lock_guard lock(mutex_);
        const CUresult told_by_driver = driver_.cuMemGetInfo_v2(free, total);
        if (told_by_driver != CUDA_SUCCESS) return told_by_driver;
        full_size = 0;
        for (const auto& [first, pool] : pools_) full_size += pool->granules * kGranuleBytes;
        const PhysicalBytes& held = mapper_.physical();
        without_pools = *free + held.device + held.zero;
        return CUDA_SUCCESS;
      },
      [&] { return pressure != nullptr ? pressure->elastic_elsewhere() : 0; }, &elsewhere);
  if (result != CUDA_SUCCESS) return result;
  without_pools = std::min<std::uint64_t>(without_pools + elsewhere, *total);
  if (told.limit != 0) {
    *total = std::min<std::uint64_t>(*total, told.limit);
    without_pools = std::min(without_pools, less(*total, limits_.other_bytes.load() + told.taken));
  }
  *free = less(without_pools, full_size);
  return CUDA_SUCCESS;
}

// --- what is lacking ----------------------------------------------------------------

std::uint64_t DeviceMemory::still_to_be_made(std::span<const AbiRun> wanted, bool rows) const {
  std::uint64_t bytes = 0, promoted = 0;
  for (const AbiRun& run : wanted) {
    Pool* pool = pool_of_granule(run.first);
    if (pool == nullptr) continue;
    const std::uint32_t begin = run.first - pool->first;
    const std::uint32_t end = std::min(begin + run.count, pool->granules);
    const std::uint64_t copies = rows ? groups_[pool->group].pools.size() : 1;
    for (std::uint32_t offset = begin; offset < end;) {
      const auto it = pool->extent_at(offset);
      const std::uint32_t next = std::min(end, it->first + order_granules(it->second.order));
      if (it->second.state == ExtentState::kAbsent) {
        bytes += copies * (next - offset) * kGranuleBytes;
      } else if (it->second.state == ExtentState::kParked) {
        promoted += copies * order_bytes(it->second.order);  // moves as a whole
      }
      offset = next;
    }
  }
  return bytes + std::min(promoted, kMostPromotedAtOnce);
}

std::uint64_t DeviceMemory::lacking(std::span<const AbiRun> wanted, bool rows,
                                    std::uint64_t set_apart) {
  std::lock_guard lock(mutex_);
  const std::uint64_t bytes = still_to_be_made(wanted, rows);
  return room_.lacks(bytes, set_apart) ? bytes : 0;
}

std::uint64_t DeviceMemory::lacking(std::uint64_t bytes, std::uint64_t set_apart) {
  std::lock_guard lock(mutex_);
  return room_.lacks(bytes, set_apart) ? bytes : 0;
}

std::uint64_t DeviceMemory::gpu_free() {
  std::size_t free = 0, total = 0;
  if (driver_.cuMemGetInfo_v2(&free, &total) != CUDA_SUCCESS) return UINT64_MAX;
  free_seen_.store(free, std::memory_order_relaxed);
  free_seen_at_.store(steady_microseconds(), std::memory_order_release);
  return free;
}

std::uint64_t DeviceMemory::gpu_free_seen() const {
  constexpr std::uint64_t kGoodFor = 2'000'000;
  const std::uint64_t at = free_seen_at_.load(std::memory_order_acquire);
  return steady_microseconds() - at <= kGoodFor ? free_seen_.load(std::memory_order_relaxed) : 0;
}

std::uint64_t DeviceMemory::floor() const {
  std::lock_guard lock(mutex_);
  return room_.floor();
}

std::uint64_t DeviceMemory::over_limit() const {
  const std::uint64_t limit = limits_.limit.load();
  if (limit == 0) return 0;
  const PhysicalBytes held = physical();
  return std::min(held.device, less(held.device + held.zero + limits_.other_bytes.load(), limit));
}

std::uint64_t DeviceMemory::spare() const {
  const PhysicalBytes held = physical();
  return std::min(held.device, less(held.device + held.zero + limits_.other_bytes.load(),
                                    limits_.reserve.load()));
}

}  // namespace kvshim::vmm
