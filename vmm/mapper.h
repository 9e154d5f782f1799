// The driver's virtual memory calls as the mechanism uses them: one place that
// creates, maps, swaps and releases handles, counts every byte (I5), and puts
// the old mapping back when a step fails.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "vmm/arena.h"
#include "vmm/driver.h"
#include "vmm/extent.h"
#include "vmm/mapping_look.h"
#include "vmm/pool.h"
#include "vmm/pressure.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// Bytes of physical memory by kind; the sum over extents plus caches must
/// equal these after every operation (I5).
struct PhysicalBytes {
  std::uint64_t device = 0;  // handles of resident extents, and those in flight
  std::uint64_t host = 0;    // handles of parked extents, slabs included
  std::uint64_t zero = 0;    // shared zero handles
};

/// Not thread-safe: every call is made under the owning DeviceMemory's mutex.
/// Only calls that return while the GPU is busy are made (facts: create, map,
/// set access, unmap, release), so the mutex is never held while waiting for
/// the GPU (I7).
class Mapper {
 public:
  /// `pressure` hears of each change of the GPU memory that is held; null: nobody.
  Mapper(const DriverApi& driver, CUdevice device, int host_numa_node,
         Pressure* pressure = nullptr);

  /// Creates a handle of order_bytes(order) in GPU or host memory.
  CUresult create_device(unsigned order, CUmemGenericAllocationHandle* handle);
  CUresult create_host(unsigned order, CUmemGenericAllocationHandle* handle);
  /// The same without counting, for making slabs without the lock; the handle
  /// is counted by adopt_host() afterwards. Any thread.
  CUresult create_host_uncounted(unsigned order, CUmemGenericAllocationHandle* handle) const;
  void adopt_host(unsigned order) { physical_.host += order_bytes(order); }
  void release_device(unsigned order, CUmemGenericAllocationHandle handle);
  void release_host(unsigned order, CUmemGenericAllocationHandle handle);

  /// The order of the zero handles that a piece of `order` is mapped to. A process
  /// keeps one handle of each of these for as long as it has pools, 46 MiB of GPU
  /// memory; one of 16 MiB for pieces that are rarer than 32 MiB ones and mapped for
  /// 38 us more as two of 8 would make it 62.
  static constexpr unsigned zero_order(unsigned order) { return order == 3 ? 2 : order; }
  /// The shared zero handle of such an order; made at first use (with the first pool).
  CUresult zero_handle(unsigned order, CUmemGenericAllocationHandle* handle);

  /// Maps a handle and opens it. On failure nothing stays mapped.
  CUresult map(CUdeviceptr address, unsigned order, CUmemGenericAllocationHandle handle,
               bool writable);
  /// Removes whole mappings. A failure other than DEINITIALIZED breaks I2.
  CUresult unmap(CUdeviceptr address, std::size_t bytes);
  /// Maps zero handles over the pieces; on failure unmaps those it mapped.
  CUresult map_zero(CUdeviceptr pool_address, std::span<const Piece> pieces);

  const PhysicalBytes& physical() const { return physical_; }
  /// Around each swap of these mappings: between the two, addresses of a pool may be a hole. The
  /// first waits for calls that look at them (MappingSwap).
  void begin_swap(CUdeviceptr address, std::size_t bytes);
  void end_swap();
  /// Releases the zero handles; only when no pool is left.
  void release_zero_handles();

 private:
  CUresult map_zero_piece(CUdeviceptr address, unsigned order);
  CUresult create(unsigned order, CUmemLocationType type, int id,
                  CUmemGenericAllocationHandle* handle) const;
  CUresult create_on_device(unsigned order, CUmemGenericAllocationHandle* handle) const;
  void release_on_device(unsigned order, CUmemGenericAllocationHandle handle) const;
  const DriverApi& driver_;
  Pressure* const pressure_;
  CUmemLocation device_location_;
  CUmemLocation host_location_;
  std::array<CUmemGenericAllocationHandle, kOrders> zero_handles_{};
  PhysicalBytes physical_;
  std::optional<MappingSwap> swap_;  // the one that is under way
};

/// Tells whether any pool address of the process may have been a hole since
/// start(): a driver call that looks at mappings on the host may then have
/// failed for that reason alone. Any thread, lock-free.
class SwapWatch {
 public:
  static SwapWatch start() noexcept;
  bool overlapped() const noexcept;

 private:
  std::uint64_t begun_ = 0, ended_ = 0;
};

}  // namespace kvshim::vmm
