// Which pool an address belongs to, without a lock: read on every launch that
// names an address of the arena.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "vmm/arena.h"
#include "vmm/units.h"

namespace kvshim::vmm {

class DeviceMemory;

/// The fixed facts of one live pool. Records are never freed (a reader may
/// still hold one when its pool dies), so a stale pointer is safe to read.
struct PoolRecord {
  std::uint64_t id = 0;  // unique in the process
  CUdeviceptr base = 0;
  std::size_t bytes = 0;         // as asked for
  std::size_t mapped_bytes = 0;  // whole granules
  CUdevice device = 0;
  CUcontext context = nullptr;
  DeviceMemory* memory = nullptr;
};

class PoolTable {
 public:
  explicit PoolTable(const Arena& arena)
      : base_(arena.base()),
        units_(arena.bytes() >> kUnitShift),
        slots_(std::make_unique<std::atomic<const PoolRecord*>[]>(units_)) {}

  /// The live pool that holds `address`, else null. Any thread, wait-free.
  const PoolRecord* find(CUdeviceptr address) const noexcept {
    const std::uint64_t unit = (address - base_) >> kUnitShift;
    if (unit >= units_) return nullptr;
    const PoolRecord* record = slots_[unit].load(std::memory_order_acquire);
    return record != nullptr && address - record->base < record->mapped_bytes ? record : nullptr;
  }
  void insert(const PoolRecord* record) noexcept { set(*record, record); }
  void erase(const PoolRecord& record) noexcept { set(record, nullptr); }

 private:
  // Pools start at multiples of 32 MiB and never share such a unit (Arena).
  static constexpr unsigned kUnitShift = kGranuleShift + kMaxOrder;
  void set(const PoolRecord& where, const PoolRecord* value) noexcept {
    const std::uint64_t first = (where.base - base_) >> kUnitShift;
    const std::uint64_t last = (where.base + where.mapped_bytes - 1 - base_) >> kUnitShift;
    for (std::uint64_t unit = first; unit <= last; ++unit) {
      slots_[unit].store(value, std::memory_order_release);
    }
  }
  CUdeviceptr base_;
  std::uint64_t units_;
  std::unique_ptr<std::atomic<const PoolRecord*>[]> slots_;
};

}  // namespace kvshim::vmm
