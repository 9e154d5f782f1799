// A libnvidia-ml.so.1 whose GPU holds what the files of the folder FAKE_GPU say:
// MiB, in a file named by the process that holds them.
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

struct Memory {  // nvmlMemory_t
  unsigned long long total, free, used;
};

constexpr int kUninitialized = 1;
constexpr int kNotFound = 6;
bool initialized = false;
int the_gpu = 0;

unsigned long long held_mib(const std::filesystem::path& folder) {
  unsigned long long sum = 0;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = file.path().filename().string();
    const bool is_process = name.find_first_not_of("0123456789") == std::string::npos;
    if (!is_process || !std::filesystem::exists("/proc/" + name)) continue;
    unsigned long long mib = 0;
    if (std::ifstream(file.path()) >> mib) sum += mib;
  }
  return sum;
}

}  // namespace

#define FAKE_NVML extern "C" __attribute__((visibility("default")))

FAKE_NVML int nvmlInit_v2() {
  initialized = true;
  return 0;
}

FAKE_NVML int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (!initialized) return kUninitialized;
  if (index != 0) return kNotFound;
  *device = &the_gpu;
  return 0;
}

struct FieldValue {  // nvmlFieldValue_t
  unsigned field, scope;
  long long time, latency;
  unsigned type, status;
  unsigned long long value;
};

// Each look finds 1 GiB more from the GPU and 3 GiB more to it.
FAKE_NVML int nvmlDeviceGetFieldValues(void* device, int count, FieldValue* values) {
  if (!initialized || device != &the_gpu) return kUninitialized;
  static unsigned long long looks = 0;
  ++looks;
  for (int i = 0; i < count; ++i) {
    constexpr unsigned kFromGpu = 197, kToGpu = 198;
    const bool known = values[i].field == kFromGpu || values[i].field == kToGpu;
    values[i].status = known ? 0 : 3;
    values[i].value = looks * (values[i].field == kToGpu ? 3 : 1) << 30;
  }
  return 0;
}

FAKE_NVML int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  const char* folder = std::getenv("FAKE_GPU");
  if (!initialized || device != &the_gpu || folder == nullptr) return kUninitialized;
  constexpr unsigned long long kMib = 1 << 20;
  memory->total = 81559 * kMib;
  memory->used = (held_mib(folder) + 478) * kMib;
  memory->free = memory->total - memory->used;
  return 0;
}
