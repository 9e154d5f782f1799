// A libnvidia-ml.so.1 with two GPUs: the simulator's, when the process has loaded it, and
// one that CUDA doesn't see. Linked without -Bsymbolic: its second memory query reaches the
// first through the global scope, the way a preload could be met twice.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#define NVML extern "C" __attribute__((visibility("default"), noinline))

namespace {

struct Memory {  // nvmlMemory_t
  unsigned long long total, free, used;
};
struct MemoryV2 {  // nvmlMemory_v2_t
  unsigned version;
  unsigned long long total, reserved, free, used;
};

constexpr unsigned kVersion2 = sizeof(MemoryV2) | (2u << 24);
constexpr int kUninitialized = 1, kInvalidArgument = 2, kNotFound = 6;
// To a version of the structure that it does not know (driver 580.159.04), not
// NVML_ERROR_ARGUMENT_VERSION_MISMATCH.
constexpr int kFunctionNotFound = 13;
constexpr unsigned long long kMiB = 1 << 20;
// What a driver keeps for itself; CUDA's total is less than NVML's by it.
constexpr unsigned long long kReserved = 32 * kMiB;

bool initialized = false;
char gpus[2];

using Uuid = unsigned char[16];

/// The simulator's own figures, without a context and whatever cuInit said.
bool simulator(Uuid uuid, std::size_t* free, std::size_t* total) {
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return false;
  const auto ask = reinterpret_cast<void (*)(unsigned char*, std::size_t*, std::size_t*)>(
      dlsym(library, "kvshim_simulator_gpu"));
  dlclose(library);
  if (ask == nullptr) return false;
  ask(uuid, free, total);
  return true;
}

}  // namespace

NVML int nvmlInit_v2() {
  initialized = true;
  return 0;
}

NVML int nvmlDeviceGetCount_v2(unsigned* count) {
  if (!initialized) return kUninitialized;
  *count = 2;
  return 0;
}

NVML int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (!initialized) return kUninitialized;
  if (index > 1) return kNotFound;
  *device = &gpus[index];
  return 0;
}

NVML int nvmlDeviceGetName(void*, char* name, unsigned length) {
  return std::snprintf(name, length, "kvshim simulator") > 0 ? 0 : kInvalidArgument;
}

NVML int nvmlDeviceGetUUID(void* device, char* text, unsigned length) {
  if (!initialized) return kUninitialized;
  Uuid uuid = {1};
  std::size_t free = 0, total = 0;
  if (device == &gpus[0] && !simulator(uuid, &free, &total)) return kNotFound;
  char hex[33] = "";
  for (int i = 0; i < 16; ++i) std::snprintf(hex + 2 * i, 3, "%02x", uuid[i]);
  std::snprintf(text, length, "GPU-%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                hex + 20);
  return 0;
}

NVML int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  if (!initialized) return kUninitialized;
  if (memory == nullptr) return kInvalidArgument;
  Uuid uuid = {};
  std::size_t free = 7 * kMiB, total = 4096 * kMiB;
  if (device == &gpus[0] && !simulator(uuid, &free, &total)) return kNotFound;
  memory->total = total + kReserved;
  memory->free = free;
  memory->used = memory->total - memory->free;
  return 0;
}

NVML int nvmlDeviceGetMemoryInfo_v2(void* device, MemoryV2* memory) {
  if (memory == nullptr) return kInvalidArgument;
  if (memory->version != kVersion2) return kFunctionNotFound;
  Memory older{};
  const int result = nvmlDeviceGetMemoryInfo(device, &older);
  if (result != 0) return result;
  memory->total = older.total;
  memory->reserved = kReserved;
  memory->free = older.free;
  memory->used = older.used - kReserved;
  return 0;
}
