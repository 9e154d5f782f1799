// Reservations and mappings. Return codes as measured on an H100 (driver 580); what
// was not measured follows cuda.h.
#include "tests/simulator/virtual_memory.h"

#include <sys/mman.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/simulator/memory_handles.h"
#include "tests/simulator/process.h"

namespace kvshim::simulator {
namespace {

struct Mapping {
  std::uint64_t bytes = 0;
  CUmemGenericAllocationHandle handle = 0;
  HeldMemory memory;  // lives as long as it is mapped, whatever becomes of the handle
};

// Where the driver puts reservations when it is given no hint.
constexpr std::uint64_t kDefaultPlace = 0x100'0400'0000;
// Reservations begin at multiples of this; a hint is rounded up (measured).
constexpr std::uint64_t kPlaceAlignment = std::uint64_t{32} << 20;

struct VirtualMemory {
  std::mutex mutex;
  std::map<std::uint64_t, std::uint64_t> reservations;  // base -> bytes
  std::map<std::uint64_t, Mapping> mappings;
  std::uint64_t next_place = kDefaultPlace;

  std::optional<Reservation> reservation(std::uint64_t address) const {
    auto next = reservations.upper_bound(address);
    if (next == reservations.begin()) return std::nullopt;
    --next;
    if (address - next->first >= next->second) return std::nullopt;
    return Reservation{next->first, next->second};
  }

  /// The first mapping that meets [address, address + bytes).
  std::map<std::uint64_t, Mapping>::iterator first_meeting(std::uint64_t address,
                                                           std::uint64_t bytes) {
    auto it = mappings.upper_bound(address);
    if (it != mappings.begin()) {
      const auto before = std::prev(it);
      if (before->first + before->second.bytes > address) return before;
    }
    return it != mappings.end() && it->first < address + bytes ? it : mappings.end();
  }
};

VirtualMemory& memory() {
  static VirtualMemory* const instance = new VirtualMemory;
  return *instance;
}

void* host_pointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }  // NOLINT

void* reserve_at(std::uint64_t hint, std::uint64_t bytes, int extra) {
  return mmap(host_pointer(hint), bytes, PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | extra, -1, 0);
}

int protection(unsigned access) {
  switch (access) {
    case CU_MEM_ACCESS_FLAGS_PROT_READ:
      return PROT_READ;
    case CU_MEM_ACCESS_FLAGS_PROT_READWRITE:
      return PROT_READ | PROT_WRITE;
    default:
      return PROT_NONE;
  }
}

}  // namespace

Tally live_reservations() {
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  Tally tally;
  for (const auto& [base, bytes] : all.reservations) {
    ++tally.count;
    tally.bytes += bytes;
  }
  return tally;
}

std::optional<Reservation> find_reservation(std::uint64_t address) {
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  return all.reservation(address);
}

bool is_virtual(std::uint64_t address) { return find_reservation(address).has_value(); }

CUresult api::cuMemAddressReserve(CUdeviceptr* address, std::size_t bytes, std::size_t alignment,
                                  CUdeviceptr hint, unsigned long long flags) {
  if (!vmm_supported()) return CUDA_ERROR_NOT_SUPPORTED;
  if (address == nullptr || flags != 0 || !is_page_multiple(bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (alignment == 0) alignment = kPageBytes;
  if ((alignment & (alignment - 1)) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (alignment < kPageBytes) alignment = kPageBytes;
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  if (alignment < kPlaceAlignment) alignment = kPlaceAlignment;
  const std::uint64_t wanted[] = {(hint + alignment - 1) & ~std::uint64_t{alignment - 1},
                                  (all.next_place + alignment - 1) & ~std::uint64_t{alignment - 1}};
  std::uint64_t base = 0;
  for (const std::uint64_t place : wanted) {
    if (place == 0) continue;
    // A plain hint, checked: ThreadSanitizer turns a hint that it dislikes into
    // address 0, which MAP_FIXED_NOREPLACE would take at its word.
    void* got = reserve_at(place, bytes, 0);
    if (got == host_pointer(place)) {
      base = place;
      if (place == wanted[1]) all.next_place = place + bytes;
      break;
    }
    if (got != MAP_FAILED) munmap(got, bytes);
  }
  if (base == 0) {
    // Anywhere, cut to the alignment.
    void* got = reserve_at(0, bytes + alignment, 0);
    if (got == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    const auto start = reinterpret_cast<std::uint64_t>(got);
    base = (start + alignment - 1) & ~std::uint64_t{alignment - 1};
    if (base != start) munmap(got, base - start);
    if (const auto left = start + alignment - base; left != 0) {
      munmap(host_pointer(base + bytes), left);
    }
  }
  all.reservations[base] = bytes;
  *address = base;
  return CUDA_SUCCESS;
}

CUresult api::cuMemAddressFree(CUdeviceptr address, std::size_t bytes) {
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  const auto found = all.reservations.find(address);
  if (found == all.reservations.end() || found->second != bytes) return CUDA_ERROR_INVALID_VALUE;
  if (all.first_meeting(address, bytes) != all.mappings.end()) return CUDA_ERROR_INVALID_VALUE;
  munmap(host_pointer(address), bytes);
  all.reservations.erase(found);
  return CUDA_SUCCESS;
}

CUresult api::cuMemMap(CUdeviceptr address, std::size_t bytes, std::size_t offset,
                       CUmemGenericAllocationHandle handle, unsigned long long flags) {
  if (flags != 0 || !is_page_multiple(bytes) || address % kPageBytes != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::optional<HeldMemory> held = find_handle(handle);
  if (!held) return CUDA_ERROR_INVALID_VALUE;
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  const auto reservation = all.reservation(address);
  if (!reservation || address + bytes > reservation->base + reservation->bytes) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto& piece = held->piece;
  if (offset != 0 || bytes < piece->bytes()) return CUDA_ERROR_NOT_SUPPORTED;
  if (bytes > piece->bytes()) return CUDA_ERROR_INVALID_VALUE;
  if (all.first_meeting(address, bytes) != all.mappings.end()) return CUDA_ERROR_INVALID_VALUE;
  if (mmap(host_pointer(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, piece->fd(),
           static_cast<off_t>(piece->offset())) == MAP_FAILED) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  all.mappings[address] = Mapping{bytes, handle, *held};
  Range range;
  range.base = address;
  range.bytes = bytes;
  range.kind = RangeKind::kMapping;
  range.reservation_base = reservation->base;
  range.reservation_bytes = reservation->bytes;
  range.on_host = piece->place() == PhysicalPiece::Place::kHost;
  add_range(range);
  return CUDA_SUCCESS;
}

CUresult api::cuMemUnmap(CUdeviceptr address, std::size_t bytes) {
  if (bytes == 0 || address % kPageBytes != 0 || bytes % kPageBytes != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::vector<std::shared_ptr<PhysicalPiece>> last;  // given back outside the lock
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  if (!all.reservation(address)) return CUDA_ERROR_INVALID_VALUE;
  const auto first = all.first_meeting(address, bytes);
  auto end = first;
  for (; end != all.mappings.end() && end->first < address + bytes; ++end) {
    if (end->first < address || end->first + end->second.bytes > address + bytes) {
      return CUDA_ERROR_INVALID_VALUE;  // in part
    }
  }
  for (auto it = first; it != end; ++it) {
    take_range(it->first, RangeKind::kMapping);
    reserve_at(it->first, it->second.bytes, MAP_FIXED);
    last.push_back(std::move(it->second.memory.piece));
  }
  if (first != end) all.mappings.erase(first, end);
  return CUDA_SUCCESS;
}

CUresult api::cuMemSetAccess(CUdeviceptr address, std::size_t bytes,
                             const CUmemAccessDesc* descriptions, std::size_t count) {
  if (bytes == 0 || descriptions == nullptr || count == 0 || address % kPageBytes != 0 ||
      bytes % kPageBytes != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  unsigned access = 0;
  bool for_gpu = false;
  for (std::size_t i = 0; i < count; ++i) {
    switch (descriptions[i].location.type) {
      case CU_MEM_LOCATION_TYPE_DEVICE:
        if (descriptions[i].location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
        access = descriptions[i].flags;
        for_gpu = true;
        break;
      case CU_MEM_LOCATION_TYPE_HOST:
      case CU_MEM_LOCATION_TYPE_HOST_NUMA:
        break;  // the CPU's own access: host addresses are device addresses here
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  std::uint64_t reached = address;
  const auto first = all.first_meeting(address, bytes);
  auto end = first;
  for (; end != all.mappings.end() && end->first < address + bytes; ++end) {
    // A hole, or a mapping met in part.
    if (end->first != reached) return CUDA_ERROR_INVALID_VALUE;
    reached = end->first + end->second.bytes;
  }
  if (reached != address + bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!for_gpu) return CUDA_SUCCESS;
  for (auto it = first; it != end; ++it) {
    if (mprotect(host_pointer(it->first), it->second.bytes, protection(access)) != 0) {
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    change_range(
        it->first,
        [](Range& range, std::uint64_t value) { range.access = static_cast<unsigned>(value); },
        access);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                             CUdeviceptr address) {
  if (flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto range = find_range(address);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  *flags = range->kind == RangeKind::kMapping ? range->access : 0;
  return CUDA_SUCCESS;
}

CUresult api::cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  VirtualMemory& all = memory();
  const std::lock_guard lock(all.mutex);
  const auto found = all.first_meeting(reinterpret_cast<std::uint64_t>(address), 1);
  if (found == all.mappings.end()) return CUDA_ERROR_INVALID_VALUE;
  const Mapping& mapping = found->second;
  retain_handle(mapping.handle, mapping.memory);
  *handle = mapping.handle;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
