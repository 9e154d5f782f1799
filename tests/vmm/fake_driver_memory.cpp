// The fake driver's memory: reservations, handles, mappings, pinned memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/vmm/fake_driver.h"
#include "tests/vmm/fake_driver_calls.h"

namespace kvshim::vmm::testing {
namespace {

void* inaccessible(void* at, std::size_t bytes, int flags) {
  return mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

}  // namespace

// The last reference is gone: the pages go back, so that the next handle is zero.
void FakeDriver::forget(std::map<CUmemGenericAllocationHandle, Handle>::iterator handle) {
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            static_cast<off_t>(handle->second.offset), static_cast<off_t>(handle->second.bytes));
  free_file_.emplace(handle->second.bytes, handle->second.offset);
  handles_.erase(handle);
}

CUresult FakeDriver::unmap(std::uint64_t begin, std::uint64_t bytes) {
  const std::uint64_t end = begin + bytes;
  const auto first = mapping_at(begin);
  if (first != mappings_.end() && first->first != begin) {
    violation("unmap of part of a mapping at " + hex(begin));
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::uint64_t covered = 0;
  for (auto it = mappings_.lower_bound(begin); it != mappings_.end() && it->first < end; ++it) {
    if (it->first + it->second.bytes > end) {
      violation("unmap of part of a mapping at " + hex(it->first));
      return CUDA_ERROR_INVALID_VALUE;
    }
    covered += it->second.bytes;
  }
  // The driver takes it; the mechanism must know what is mapped.
  if (covered != bytes) violation("unmap over a hole at " + hex(begin));
  check_no_work(begin, end, "unmap");
  for (auto it = mappings_.lower_bound(begin); it != mappings_.end() && it->first < end;) {
    const auto handle = handles_.find(it->second.handle);
    --handle->second.mappings;
    if (handle->second.released && handle->second.mappings == 0) forget(handle);
    it = mappings_.erase(it);
  }
  inaccessible(reinterpret_cast<void*>(begin), bytes, MAP_FIXED);
  return CUDA_SUCCESS;
}

struct FakeDriver::MemoryFunctions {
  static CUresult address_reserve(CUdeviceptr* out, size_t bytes, size_t alignment,
                                  [[maybe_unused]] CUdeviceptr hint, unsigned long long) {
    KVSHIM_INJECT(cuMemAddressReserve);
    FakeDriver& driver = self();
    const std::size_t align = std::max<std::size_t>(alignment, kGranuleBytes);
    void* at = MAP_FAILED;
#ifndef KVSHIM_SANITIZED  // the sanitizers' own memory lies at such addresses
    if (hint != 0) {
      at = inaccessible(reinterpret_cast<void*>(hint), bytes, MAP_FIXED_NOREPLACE);
    }
#endif
    auto base = reinterpret_cast<std::uint64_t>(at);
    if (at == MAP_FAILED) {
      at = inaccessible(nullptr, bytes + align, 0);
      if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
      const auto got = reinterpret_cast<std::uint64_t>(at);
      base = (got + align - 1) & ~(align - 1);
      if (base != got) munmap(at, base - got);
      if (base + bytes != got + bytes + align) {
        munmap(reinterpret_cast<void*>(base + bytes), got + align - base);
      }
    }
    std::lock_guard lock(driver.mutex_);
    driver.reservations_[base] = bytes;
    *out = base;
    return CUDA_SUCCESS;
  }

  static CUresult address_free(CUdeviceptr base, size_t bytes) {
    KVSHIM_INJECT(cuMemAddressFree);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.reservations_.find(base);
    const auto next = driver.mappings_.lower_bound(base);
    if (it == driver.reservations_.end() || it->second != bytes ||
        (next != driver.mappings_.end() && next->first < base + bytes)) {
      driver.violation("address free of " + hex(base) + ": no whole, unmapped reservation");
      return CUDA_ERROR_INVALID_VALUE;
    }
    driver.reservations_.erase(it);
    munmap(reinterpret_cast<void*>(base), bytes);
    return CUDA_SUCCESS;
  }

  static CUresult create(CUmemGenericAllocationHandle* out, size_t bytes,
                         const CUmemAllocationProp* properties, unsigned long long) {
    KVSHIM_INJECT(cuMemCreate);
    FakeDriver& driver = self();
    const bool host = properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE;
    if (host && driver.host_create_microseconds.load() != 0) {
      std::this_thread::sleep_for(
          std::chrono::microseconds(driver.host_create_microseconds.load()));
    }
    std::lock_guard lock(driver.mutex_);
    if (bytes == 0 || bytes % kGranuleBytes != 0) return CUDA_ERROR_INVALID_VALUE;
    if (!host && driver.used(false) + driver.others_ + bytes > driver.gpu_bytes_) {
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    Handle handle{0, bytes, host, false, 0};
    if (const auto it = driver.free_file_.find(bytes); it != driver.free_file_.end()) {
      handle.offset = it->second;
      driver.free_file_.erase(it);
    } else {
      handle.offset = driver.file_end_;
      driver.file_end_ += bytes;
      if (ftruncate(driver.file_, static_cast<off_t>(driver.file_end_)) != 0) std::abort();
    }
    *out = driver.next_handle_++;
    driver.handles_[*out] = handle;
    return CUDA_SUCCESS;
  }

  static CUresult release(CUmemGenericAllocationHandle id) {
    KVSHIM_INJECT(cuMemRelease);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.handles_.find(id);
    if (it == driver.handles_.end() || it->second.released) {
      driver.violation("release of a handle that does not live: " + std::to_string(id));
      return CUDA_ERROR_INVALID_VALUE;
    }
    it->second.released = true;
    if (it->second.mappings == 0) driver.forget(it);
    return CUDA_SUCCESS;
  }

  static CUresult map(CUdeviceptr address, size_t bytes, size_t offset,
                      CUmemGenericAllocationHandle id, unsigned long long) {
    KVSHIM_INJECT(cuMemMap);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto handle = driver.handles_.find(id);
    if (handle == driver.handles_.end() || handle->second.released || offset != 0 ||
        handle->second.bytes != bytes) {
      driver.violation("map at " + hex(address) + ": no such handle, or not all of it");
      return CUDA_ERROR_INVALID_VALUE;
    }
    auto reservation = driver.reservations_.upper_bound(address);
    const bool inside =
        reservation != driver.reservations_.begin() &&
        (--reservation, address + bytes <= reservation->first + reservation->second);
    const auto next = driver.mappings_.lower_bound(address);
    const bool taken = driver.mapping_at(address) != driver.mappings_.end() ||
                       (next != driver.mappings_.end() && next->first < address + bytes);
    if (!inside || taken) {
      driver.violation("map at " + hex(address) + (taken ? ": already mapped" : ": not reserved"));
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED,
             driver.file_, static_cast<off_t>(handle->second.offset)) == MAP_FAILED) {
      std::abort();
    }
    ++handle->second.mappings;
    driver.mappings_[address] = {bytes, id, false, false};
    return CUDA_SUCCESS;
  }

  static CUresult unmap_range(CUdeviceptr address, size_t bytes) {
    KVSHIM_INJECT(cuMemUnmap);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    return driver.unmap(address, bytes);
  }

  static CUresult set_access(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* access,
                             size_t count) {
    KVSHIM_INJECT(cuMemSetAccess);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const bool writable = access[0].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (count != 1 || access[0].location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
      driver.violation("set access at " + hex(address) + ": not for the device");
      return CUDA_ERROR_INVALID_VALUE;
    }
    for (std::uint64_t at = address; at < address + bytes;) {
      const auto it = driver.mappings_.find(at);
      if (it == driver.mappings_.end()) {
        driver.violation("set access over a hole at " + hex(at));
        return CUDA_ERROR_INVALID_VALUE;
      }
      it->second.accessible = true;
      it->second.writable = writable;
      at += it->second.bytes;
    }
    mprotect(reinterpret_cast<void*>(address), bytes,
             writable ? PROT_READ | PROT_WRITE : PROT_READ);
    return CUDA_SUCCESS;
  }

  static CUresult granularity(size_t* bytes, const CUmemAllocationProp*,
                              CUmemAllocationGranularity_flags) {
    KVSHIM_INJECT(cuMemGetAllocationGranularity);
    *bytes = kGranuleBytes;
    return CUDA_SUCCESS;
  }

  static CUresult get_info(size_t* free, size_t* total) {
    KVSHIM_INJECT(cuMemGetInfo_v2);
    *free = self().gpu_free();
    *total = self().gpu_bytes_;
    return CUDA_SUCCESS;
  }

  static CUresult host_alloc(void** memory, size_t bytes, unsigned) {
    KVSHIM_INJECT(cuMemHostAlloc);
    FakeDriver& driver = self();
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::lock_guard lock(driver.mutex_);
    driver.pinned_[at] = bytes;
    *memory = at;
    return CUDA_SUCCESS;
  }

  static CUresult free_host(void* memory) {
    KVSHIM_INJECT(cuMemFreeHost);
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.pinned_.find(memory);
    if (it == driver.pinned_.end()) return CUDA_ERROR_INVALID_VALUE;
    munmap(memory, it->second);
    driver.pinned_.erase(it);
    return CUDA_SUCCESS;
  }

  static CUresult device_pointer(CUdeviceptr* out, void* memory, unsigned) {
    KVSHIM_INJECT(cuMemHostGetDevicePointer_v2);
    *out = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
  }
};

void FakeDriver::fill_memory_api() {
  api_.cuMemAddressReserve = MemoryFunctions::address_reserve;
  api_.cuMemAddressFree = MemoryFunctions::address_free;
  api_.cuMemCreate = MemoryFunctions::create;
  api_.cuMemRelease = MemoryFunctions::release;
  api_.cuMemMap = MemoryFunctions::map;
  api_.cuMemUnmap = MemoryFunctions::unmap_range;
  api_.cuMemSetAccess = MemoryFunctions::set_access;
  api_.cuMemGetAllocationGranularity = MemoryFunctions::granularity;
  api_.cuMemGetInfo_v2 = MemoryFunctions::get_info;
  api_.cuMemHostAlloc = MemoryFunctions::host_alloc;
  api_.cuMemFreeHost = MemoryFunctions::free_host;
  api_.cuMemHostGetDevicePointer_v2 = MemoryFunctions::device_pointer;
}

}  // namespace kvshim::vmm::testing
