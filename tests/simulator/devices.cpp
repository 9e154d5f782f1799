// The one simulated device and what can be asked about it.
#include <cstring>
#include <string>

#include "tests/simulator/api.h"
#include "tests/simulator/gpu_memory.h"
#include "tests/simulator/process.h"

namespace kvshim::simulator {
namespace {

constexpr char kName[] = "kvshim simulator";
constexpr char kBusId[] = "0000:01:00.0";

int attribute(CUdevice_attribute asked) {
  switch (asked) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
      return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
      return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
      return 2147483647;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
      return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
      return 49152;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return 232448;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
      return 233472;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
      return 65536;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
      return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return 132;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      return 1980000;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return 2048;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return 0;
    case CU_DEVICE_ATTRIBUTE_MPS_ENABLED:
      return std::getenv("KVSHIM_SIM_MPS") != nullptr ? 1 : 0;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return 1;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
      return 512;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return 3;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
      return 1;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      return vmm_supported() ? 1 : 0;
    default:
      return 0;  // a GPU without the feature in question
  }
}

CUresult check(CUdevice device) { return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }

}  // namespace

CUresult api::cuDeviceGetCount(int* count) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = 1;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGet(CUdevice* device, int ordinal) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = 0;
  return check(ordinal);
}

CUresult api::cuDeviceGetName(char* name, int length, CUdevice device) {
  if (name == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::strncpy(name, kName, static_cast<std::size_t>(length));
  name[length - 1] = '\0';
  return check(device);
}

CUresult api::cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  if (bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *bytes = GpuMemory::instance().total();
  return check(device);
}

CUresult api::cuDeviceGetAttribute(int* value, CUdevice_attribute asked, CUdevice device) {
  if (value == nullptr || asked < CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK ||
      asked >= CU_DEVICE_ATTRIBUTE_MAX) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult bad = check(device); bad != CUDA_SUCCESS) return bad;
  *value = attribute(asked);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceComputeCapability(int* major, int* minor, CUdevice device) {
  if (major == nullptr || minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *major = 9;
  *minor = 0;
  return check(device);
}

CUresult api::cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  if (uuid == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // One per simulated GPU: processes that share it see the same.
  const char* name = std::getenv("KVSHIM_SIM_GPU");
  const std::size_t hash = std::hash<std::string>{}(name == nullptr ? "" : name);
  std::memcpy(uuid->bytes, "kvshimsm", 8);
  std::memcpy(uuid->bytes + 8, &hash, 8);
  return check(device);
}

CUresult api::cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  return api::cuDeviceGetUuid_v2(uuid, device);
}

CUresult api::cuDeviceGetPCIBusId(char* id, int length, CUdevice device) {
  if (id == nullptr || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::strncpy(id, kBusId, static_cast<std::size_t>(length));
  id[length - 1] = '\0';
  return check(device);
}

CUresult api::cuDeviceGetByPCIBusId(CUdevice* device, const char* id) {
  if (device == nullptr || id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = 0;
  return std::strcmp(id, kBusId) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult api::cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice) {
  if (can == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *can = 0;
  return check(device);
}

}  // namespace kvshim::simulator

// For a stand-in of NVML, which needs neither cuInit nor a context (tests/nvml).
extern "C" __attribute__((visibility("default"))) void kvshim_simulator_gpu(unsigned char* uuid,
                                                                            std::size_t* free,
                                                                            std::size_t* total) {
  CUuuid bytes{};
  kvshim::simulator::api::cuDeviceGetUuid_v2(&bytes, 0);
  std::memcpy(uuid, bytes.bytes, sizeof bytes.bytes);
  *free = kvshim::simulator::GpuMemory::instance().free_bytes();
  *total = kvshim::simulator::GpuMemory::instance().total();
}
