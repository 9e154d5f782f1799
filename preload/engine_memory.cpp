#include "preload/engine_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>

#include "preload/plain_memory.h"
#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

constexpr std::size_t kMostDevices = 64;

/// Bytes of a device for as long as anything names them.
class Charge {
 public:
  Charge(CUdevice device, std::uint64_t bytes) : device_(device), bytes_(bytes) {
    change_plain(device_, static_cast<std::int64_t>(bytes_));
  }
  ~Charge() { change_plain(device_, -static_cast<std::int64_t>(bytes_)); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  CUdevice device_;
  std::uint64_t bytes_;
};

struct Handle {
  std::shared_ptr<Charge> charge;
  std::uint64_t references = 1;
};
struct Array {
  std::unique_ptr<Charge> charge;
  CUcontext context = nullptr;
};
struct Known {
  std::mutex mutex;
  std::unordered_map<CUmemGenericAllocationHandle, Handle> handles;
  std::map<CUdeviceptr, std::shared_ptr<Charge>> mappings;
  std::unordered_map<const void*, Array> arrays;
  std::array<std::uint64_t, kMostDevices> reserve{};  // the housekeeping thread's
  Known* parents = nullptr;                           // left alone
};
// Leaked: hooks run until the very end.
std::atomic<Known*>& known() {
  static std::atomic<Known*> all{new Known};
  return all;
}

std::uint64_t element_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    default:
      return 4;  // the common ones; others are rare, and compressed ones smaller
  }
}

std::uint64_t reserved_by(CUmemoryPool pool) {
  std::uint64_t reserved = 0, used = 0;
  const auto ask = real().cuMemPoolGetAttribute;
  if (pool == nullptr || ask == nullptr ||
      ask(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) != CUDA_SUCCESS ||
      ask(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used) != CUDA_SUCCESS) {
    return 0;
  }
  return reserved > used ? reserved - used : 0;
}

}  // namespace

void count_created(CUmemGenericAllocationHandle handle, const CUmemAllocationProp& properties,
                   std::size_t bytes) noexcept {
  if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE) return;
  try {
    Known& all = *known().load();
    std::lock_guard lock(all.mutex);
    all.handles[handle] = {std::make_shared<Charge>(properties.location.id, bytes), 1};
  } catch (const std::bad_alloc&) {
  }
}

void count_retained(CUmemGenericAllocationHandle handle) noexcept {
  Known& all = *known().load();
  std::lock_guard lock(all.mutex);
  const auto it = all.handles.find(handle);
  if (it != all.handles.end()) ++it->second.references;
}

void count_released(CUmemGenericAllocationHandle handle) noexcept {
  Known& all = *known().load();
  std::lock_guard lock(all.mutex);
  const auto it = all.handles.find(handle);
  if (it != all.handles.end() && --it->second.references == 0) all.handles.erase(it);
}

void count_mapped(CUdeviceptr address, std::size_t, CUmemGenericAllocationHandle handle) noexcept {
  try {
    Known& all = *known().load();
    std::lock_guard lock(all.mutex);
    const auto it = all.handles.find(handle);
    if (it != all.handles.end()) all.mappings[address] = it->second.charge;
  } catch (const std::bad_alloc&) {
  }
}

void count_unmapped(CUdeviceptr address, std::size_t bytes) noexcept {
  Known& all = *known().load();
  std::lock_guard lock(all.mutex);
  const CUdeviceptr end = address + bytes < address ? ~CUdeviceptr{0} : address + bytes;
  all.mappings.erase(all.mappings.lower_bound(address), all.mappings.lower_bound(end));
}

std::uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& array, unsigned levels) noexcept {
  if ((array.Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)) != 0) return 0;
  std::uint64_t bytes = 0;
  const auto at = [](std::size_t extent, unsigned level) {
    return std::max<std::uint64_t>(extent >> std::min(level, 63u), 1);
  };
  for (unsigned level = 0; level < std::min(levels, 64u); ++level) {
    bytes += at(array.Width, level) * at(array.Height, level) * at(array.Depth, level) *
             array.NumChannels * element_bytes(array.Format);
  }
  return bytes;
}

void count_array(const void* array, std::uint64_t bytes) noexcept {
  CUdevice device = 0;
  Array counted;
  if (bytes == 0 || real().cuCtxGetCurrent(&counted.context) != CUDA_SUCCESS ||
      real().cuCtxGetDevice(&device) != CUDA_SUCCESS) {
    return;
  }
  try {
    counted.charge = std::make_unique<Charge>(device, bytes);
    Known& all = *known().load();
    std::lock_guard lock(all.mutex);
    all.arrays[array] = std::move(counted);
  } catch (const std::bad_alloc&) {
  }
}

void uncount_array(const void* array) noexcept {
  Known& all = *known().load();
  std::lock_guard lock(all.mutex);
  all.arrays.erase(array);
}

void uncount_arrays_of(CUcontext context) noexcept {
  Known& all = *known().load();
  std::lock_guard lock(all.mutex);
  std::erase_if(all.arrays, [&](const auto& entry) { return entry.second.context == context; });
}

void look_at_pool_reserve(CUdevice device) noexcept {
  if (device < 0 || static_cast<std::size_t>(device) >= kMostDevices) return;
  // The default one only, which lives as long as the device: the engine may be destroying
  // another just now.
  CUmemoryPool standard = nullptr;
  if (real().cuDeviceGetDefaultMemPool == nullptr ||
      real().cuDeviceGetDefaultMemPool(&standard, device) != CUDA_SUCCESS) {
    return;
  }
  const std::uint64_t now = reserved_by(standard);
  std::uint64_t& counted = known().load()->reserve[static_cast<std::size_t>(device)];
  change_plain(device, static_cast<std::int64_t>(now) - static_cast<std::int64_t>(counted));
  counted = now;
}

// The parent's lock may be held by a thread that doesn't exist here.
void forget_engine_memory_after_fork() noexcept {
  auto* const fresh = new (std::nothrow) Known;
  if (fresh == nullptr) return;
  fresh->parents = known().load();
  known().store(fresh);
}

}  // namespace kvshim::preload
