// Handles of physical memory. Return codes as measured on an H100 (driver 580); what
// was not measured follows cuda.h.
#include "tests/simulator/memory_handles.h"

#include <fcntl.h>

#include <map>
#include <mutex>
#include <utility>

#include "tests/simulator/process.h"

namespace kvshim::simulator {
namespace {

struct Handle {
  HeldMemory memory;
  unsigned references = 1;
};

struct Handles {
  std::mutex mutex;
  std::map<CUmemGenericAllocationHandle, Handle> living;
  CUmemGenericAllocationHandle next = 0x3f00'0001;
};

Handles& handles() {
  static Handles* const instance = new Handles;
  return *instance;
}

CUmemGenericAllocationHandle add(HeldMemory memory) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const CUmemGenericAllocationHandle handle = all.next++;
  all.living[handle] = Handle{std::move(memory)};
  return handle;
}

CUresult check_properties(const CUmemAllocationProp* properties) {
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  switch (properties->location.type) {
    case CU_MEM_LOCATION_TYPE_DEVICE:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA:
      return properties->location.id == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
    case CU_MEM_LOCATION_TYPE_HOST:
    case CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT:
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

std::optional<HeldMemory> find_handle(CUmemGenericAllocationHandle handle) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto found = all.living.find(handle);
  if (found == all.living.end()) return std::nullopt;
  return found->second.memory;
}

void retain_handle(CUmemGenericAllocationHandle handle, const HeldMemory& memory) {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto [known, made] = all.living.try_emplace(handle, Handle{memory});
  if (!made) ++known->second.references;
}

Tally live_handles() {
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  Tally tally;
  for (const auto& [id, handle] : all.living) {
    ++tally.count;
    tally.bytes += handle.memory.piece->bytes();
  }
  return tally;
}

CUresult api::cuMemGetAllocationGranularity(std::size_t* granularity,
                                            const CUmemAllocationProp* properties,
                                            CUmemAllocationGranularity_flags) {
  if (!vmm_supported()) return CUDA_ERROR_NOT_SUPPORTED;
  if (granularity == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult bad = check_properties(properties); bad != CUDA_SUCCESS) return bad;
  *granularity = kPageBytes;
  return CUDA_SUCCESS;
}

CUresult api::cuMemCreate(CUmemGenericAllocationHandle* handle, std::size_t bytes,
                          const CUmemAllocationProp* properties, unsigned long long flags) {
  if (!vmm_supported()) return CUDA_ERROR_NOT_SUPPORTED;
  if (handle == nullptr || flags != 0 || !is_page_multiple(bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult bad = check_properties(properties); bad != CUDA_SUCCESS) return bad;
  const auto types = static_cast<unsigned>(properties->requestedHandleTypes);
  if ((types & ~static_cast<unsigned>(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  const auto place = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE
                         ? PhysicalPiece::Place::kGpu
                         : PhysicalPiece::Place::kHost;
  auto piece = PhysicalPiece::make(bytes, place, types != 0);
  if (piece == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = add({std::move(piece), *properties});
  return CUDA_SUCCESS;
}

CUresult api::cuMemRelease(CUmemGenericAllocationHandle handle) {
  std::shared_ptr<PhysicalPiece> last;  // given back outside the lock
  Handles& all = handles();
  const std::lock_guard lock(all.mutex);
  const auto found = all.living.find(handle);
  if (found == all.living.end()) return CUDA_ERROR_INVALID_VALUE;
  if (--found->second.references == 0) {
    last = std::move(found->second.memory.piece);
    all.living.erase(found);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* properties,
                                                     CUmemGenericAllocationHandle handle) {
  if (properties == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::optional<HeldMemory> held = find_handle(handle);
  if (!held) return CUDA_ERROR_INVALID_VALUE;
  *properties = held->properties;
  return CUDA_SUCCESS;
}

CUresult api::cuMemExportToShareableHandle(void* shareable, CUmemGenericAllocationHandle handle,
                                           CUmemAllocationHandleType type,
                                           unsigned long long flags) {
  if (shareable == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const std::optional<HeldMemory> held = find_handle(handle);
  if (!held || !held->piece->shareable()) return CUDA_ERROR_INVALID_VALUE;
  const int fd = fcntl(held->piece->fd(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(shareable) = fd;
  return CUDA_SUCCESS;
}

CUresult api::cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* shareable,
                                             CUmemAllocationHandleType type) {
  if (handle == nullptr || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto piece =
      PhysicalPiece::from_file(static_cast<int>(reinterpret_cast<std::intptr_t>(shareable)));
  if (piece == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  *handle = add({std::move(piece), properties});
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
