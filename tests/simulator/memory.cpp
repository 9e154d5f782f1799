#include "tests/simulator/memory.h"

#include <sys/mman.h>

#include <map>
#include <mutex>
#include <vector>

#include "tests/simulator/address_space.h"
#include "tests/simulator/capture.h"
#include "tests/simulator/gpu_memory.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

constexpr std::uint64_t kSmall = std::uint64_t{1} << 20;  // below: from a slab
constexpr std::uint64_t kAlignment = 512;
// More than any address space has: sums of sizes below it don't overflow.
constexpr std::uint64_t kAbsurd = std::uint64_t{1} << 48;

void* pointer(std::uint64_t address) { return reinterpret_cast<void*>(address); }  // NOLINT

/// Fresh zeroed pages, aligned to 2 MiB; 0 when the system has none.
std::uint64_t map_pages(std::uint64_t bytes) {
  if (bytes == 0 || bytes > kAbsurd) return 0;
  void* got = mmap(nullptr, bytes + kPageBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got == MAP_FAILED) return 0;
  const auto start = reinterpret_cast<std::uint64_t>(got);
  const std::uint64_t base = round_to_page(start);
  if (base != start) munmap(got, base - start);
  if (const auto left = start + kPageBytes - base; left != 0) munmap(pointer(base + bytes), left);
  return base;
}

/// Pieces below 1 MiB, cut first fit from slabs of 2 MiB; a slab goes back
/// with its last piece, as on the real driver.
class Slabs {
 public:
  std::uint64_t take(std::uint64_t bytes) {
    bytes = (bytes + kAlignment - 1) & ~(kAlignment - 1);
    const std::lock_guard lock(mutex_);
    for (auto& [base, slab] : slabs_) {
      if (const std::uint64_t found = cut(slab, bytes); found != 0) return found;
    }
    if (!GpuMemory::instance().take(kPageBytes)) return 0;
    const std::uint64_t base = map_pages(kPageBytes);
    if (base == 0) {
      GpuMemory::instance().give_back(kPageBytes);
      return 0;
    }
    Slab& slab = slabs_[base];
    slab.free[base] = kPageBytes;
    return cut(slab, bytes);
  }

  void give_back(std::uint64_t address) {
    const std::lock_guard lock(mutex_);
    const auto owner = std::prev(slabs_.upper_bound(address));
    Slab& slab = owner->second;
    const auto piece = slab.used.find(address);
    std::uint64_t bytes = piece->second;
    slab.used.erase(piece);
    if (slab.used.empty()) {
      munmap(pointer(owner->first), kPageBytes);
      slabs_.erase(owner);
      GpuMemory::instance().give_back(kPageBytes);
      return;
    }
    auto next = slab.free.lower_bound(address);
    if (next != slab.free.end() && next->first == address + bytes) {
      bytes += next->second;
      next = slab.free.erase(next);
    }
    if (next != slab.free.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == address) {
        before->second += bytes;
        return;
      }
    }
    slab.free[address] = bytes;
  }

 private:
  struct Slab {
    std::map<std::uint64_t, std::uint64_t> free, used;
  };

  static std::uint64_t cut(Slab& slab, std::uint64_t bytes) {
    for (auto it = slab.free.begin(); it != slab.free.end(); ++it) {
      if (it->second < bytes) continue;
      const std::uint64_t address = it->first;
      const std::uint64_t left = it->second - bytes;
      slab.free.erase(it);
      if (left != 0) slab.free[address + bytes] = left;
      slab.used[address] = bytes;
      return address;
    }
    return 0;
  }

  std::mutex mutex_;
  std::map<std::uint64_t, Slab> slabs_;
};

Slabs& slabs() {
  static Slabs* const instance = new Slabs;
  return *instance;
}

void release_memory(const Range& range) {
  switch (range.kind) {
    case RangeKind::kDevice:
      if (range.charged == 0) {
        slabs().give_back(range.base);
        return;
      }
      munmap(pointer(range.base), range.charged);
      GpuMemory::instance().give_back(range.charged);
      return;
    case RangeKind::kManaged:
    case RangeKind::kHost:
      munmap(pointer(range.base), round_to_page(range.bytes));
      return;
    case RangeKind::kRegistered:
    case RangeKind::kMapping:
      return;
  }
}

/// Frees a range after all work of the context, as cuMemFree does: other
/// threads' submissions are stuck meanwhile.
CUresult free_after_all_work(std::uint64_t address, RangeKind kind) {
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  const auto known = find_range(address);
  if (!known || known->base != address || known->kind != kind) return CUDA_ERROR_INVALID_VALUE;
  {
    const std::lock_guard turn(submission_mutex());
    synchronize_context(known->context);
  }
  const auto range = take_range(address, kind);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  release_memory(*range);
  return CUDA_SUCCESS;
}

CUresult make_host(void** address, std::size_t bytes, unsigned flags) {
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  const std::uint64_t base = bytes > kAbsurd ? 0 : map_pages(round_to_page(bytes));
  if (base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  Range range;
  range.base = base;
  range.bytes = bytes;
  range.kind = RangeKind::kHost;
  range.context = current_context();
  range.on_host = true;
  range.flags = flags;
  add_range(range);
  *address = pointer(base);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult allocate_device(Context* context, std::size_t bytes, CUmemoryPool pool,
                         CUdeviceptr* address) {
  if (bytes > kAbsurd) return CUDA_ERROR_OUT_OF_MEMORY;
  Range range;
  range.kind = RangeKind::kDevice;
  range.context = context;
  range.bytes = bytes;
  range.pool = pool;
  if (bytes < kSmall) {
    range.base = slabs().take(bytes);
  } else {
    const std::uint64_t charged = round_to_page(bytes);
    if (!GpuMemory::instance().take(charged)) return CUDA_ERROR_OUT_OF_MEMORY;
    range.charged = charged;
    range.base = map_pages(charged);
    if (range.base == 0) GpuMemory::instance().give_back(charged);
  }
  if (range.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  add_range(range);
  *address = range.base;
  return CUDA_SUCCESS;
}

CUresult allocate_for_graph(Context* context, std::size_t bytes, CUdeviceptr* address) {
  const CUresult result = allocate_device(context, bytes, nullptr, address);
  if (result == CUDA_SUCCESS) {
    change_range(
        *address, [](Range& range, std::uint64_t) { range.of_graph = true; }, 0);
  }
  return result;
}

CUresult free_device(CUdeviceptr address) {
  const auto range = take_range(address, RangeKind::kDevice);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  release_memory(*range);
  return CUDA_SUCCESS;
}

void free_memory_of(Context* context) {
  while (const auto range = take_any_range_of(context)) release_memory(*range);
}

CUresult api::cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  CUresult result = allocate_device(current_context(), bytes, nullptr, address);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    // The driver waits for what is under way before it says no (measured).
    const std::lock_guard turn(submission_mutex());
    synchronize_context(current_context());
    result = allocate_device(current_context(), bytes, nullptr, address);
  }
  return result;
}

CUresult api::cuMemAllocPitch_v2(CUdeviceptr* address, std::size_t* pitch, std::size_t width,
                                 std::size_t height, unsigned element) {
  if (pitch == nullptr || width == 0 || height == 0) return CUDA_ERROR_INVALID_VALUE;
  if (element != 4 && element != 8 && element != 16) return CUDA_ERROR_INVALID_VALUE;
  if (width > kAbsurd || height > kAbsurd / width) return CUDA_ERROR_OUT_OF_MEMORY;
  *pitch = (width + kAlignment - 1) & ~(kAlignment - 1);
  return api::cuMemAlloc_v2(address, *pitch * height);
}

CUresult api::cuMemFree_v2(CUdeviceptr address) {
  if (address == 0) return CUDA_SUCCESS;
  if (const auto known = find_range(address); known && known->kind == RangeKind::kManaged) {
    return free_after_all_work(address, RangeKind::kManaged);
  }
  return free_after_all_work(address, RangeKind::kDevice);
}

CUresult api::cuMemAllocManaged(CUdeviceptr* address, std::size_t bytes, unsigned flags) {
  if (address == nullptr || bytes == 0 || flags == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  Range range;
  range.base = bytes > kAbsurd ? 0 : map_pages(round_to_page(bytes));
  if (range.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  range.bytes = bytes;
  range.kind = RangeKind::kManaged;
  range.context = current_context();
  range.flags = flags;
  add_range(range);
  *address = range.base;
  return CUDA_SUCCESS;
}

CUresult api::cuMemHostAlloc(void** address, std::size_t bytes, unsigned flags) {
  return make_host(address, bytes, flags);
}

CUresult api::cuMemAllocHost_v2(void** address, std::size_t bytes) {
  return make_host(address, bytes, 0);
}

CUresult api::cuMemFreeHost(void* address) {
  if (address == nullptr) return CUDA_SUCCESS;
  return free_after_all_work(reinterpret_cast<std::uint64_t>(address), RangeKind::kHost);
}

CUresult api::cuMemHostRegister_v2(void* address, std::size_t bytes, unsigned flags) {
  if (address == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult refused = refuse_unsafe_call(); refused != CUDA_SUCCESS) return refused;
  if (is_known(reinterpret_cast<std::uint64_t>(address))) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  Range range;
  range.base = reinterpret_cast<std::uint64_t>(address);
  range.bytes = bytes;
  range.kind = RangeKind::kRegistered;
  range.context = current_context();
  range.on_host = true;
  range.flags = flags;
  add_range(range);
  return CUDA_SUCCESS;
}

CUresult api::cuMemHostUnregister(void* address) {
  const CUresult result =
      free_after_all_work(reinterpret_cast<std::uint64_t>(address), RangeKind::kRegistered);
  return result == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : result;
}

CUresult api::cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* host, unsigned flags) {
  if (device == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const auto range = find_range(reinterpret_cast<std::uint64_t>(host));
  if (!range || (range->kind != RangeKind::kHost && range->kind != RangeKind::kRegistered)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *device = reinterpret_cast<CUdeviceptr>(host);
  return CUDA_SUCCESS;
}

CUresult api::cuMemHostGetFlags(unsigned* flags, void* host) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto range = find_range(reinterpret_cast<std::uint64_t>(host));
  if (!range || range->kind != RangeKind::kHost) return CUDA_ERROR_INVALID_VALUE;
  *flags = range->flags;
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetInfo_v2(std::size_t* free_bytes, std::size_t* total) {
  if (free_bytes != nullptr) *free_bytes = GpuMemory::instance().free_bytes();
  if (total != nullptr) *total = GpuMemory::instance().total();
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
