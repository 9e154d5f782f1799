#include "tools/kvshim/gpu_probe.h"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

// From NVML's documentation (nvml.h of CUDA 12): a stable interface of its own.
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total, free, used;
};
struct NvmlMemoryV2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};
std::atomic<bool> started{false};

constexpr unsigned kMemoryV2 = sizeof(NvmlMemoryV2) | (2u << 24);

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

class Nvml {
 public:
  bool load() {
    void* library = ::dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) return false;
    auto* init = symbol<int()>(library, "nvmlInit_v2");
    count_ = symbol<int(unsigned*)>(library, "nvmlDeviceGetCount_v2");
    handle_ = symbol<int(unsigned, NvmlDevice*)>(library, "nvmlDeviceGetHandleByIndex_v2");
    uuid_ = symbol<int(NvmlDevice, char*, unsigned)>(library, "nvmlDeviceGetUUID");
    name_ = symbol<int(NvmlDevice, char*, unsigned)>(library, "nvmlDeviceGetName");
    memory_ = symbol<int(NvmlDevice, NvmlMemory*)>(library, "nvmlDeviceGetMemoryInfo");
    memory_v2_ = symbol<int(NvmlDevice, NvmlMemoryV2*)>(library, "nvmlDeviceGetMemoryInfo_v2");
    return init != nullptr && count_ != nullptr && handle_ != nullptr && uuid_ != nullptr &&
           name_ != nullptr && memory_ != nullptr && init() == 0;
  }
  std::vector<GpuMemory> sample() const {
    std::vector<GpuMemory> all;
    unsigned count = 0;
    if (count_(&count) != 0) return all;
    for (unsigned i = 0; i < count; ++i) {
      NvmlDevice device = nullptr;
      std::array<char, 96> text{};
      GpuMemory gpu;
      gpu.index = static_cast<int>(i);
      if (handle_(i, &device) != 0 || uuid_(device, text.data(), text.size()) != 0) continue;
      gpu.uuid = printable(text.data());
      if (name_(device, text.data(), text.size()) == 0) gpu.name = printable(text.data());
      if (!read_memory(device, &gpu)) continue;
      all.push_back(gpu);
    }
    return all;
  }

 private:
  /// The first form counts the driver's own reserve (some 500 MiB) as used.
  bool read_memory(NvmlDevice device, GpuMemory* gpu) const {
    NvmlMemoryV2 newer{kMemoryV2, 0, 0, 0, 0};
    if (memory_v2_ != nullptr && memory_v2_(device, &newer) == 0) {
      gpu->total = newer.total - newer.reserved;
      gpu->used = newer.used;
      return true;
    }
    NvmlMemory older{};
    if (memory_(device, &older) != 0) return false;
    gpu->total = older.total;
    gpu->used = older.used;
    return true;
  }

  int (*count_)(unsigned*) = nullptr;
  int (*handle_)(unsigned, NvmlDevice*) = nullptr;
  int (*uuid_)(NvmlDevice, char*, unsigned) = nullptr;
  int (*name_)(NvmlDevice, char*, unsigned) = nullptr;
  int (*memory_)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*memory_v2_)(NvmlDevice, NvmlMemoryV2*) = nullptr;
};

}  // namespace

struct GpuProbe::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<GpuMemory> newest;
  std::uint64_t asked = 0;
  std::uint64_t answered = 0;
  bool gone = false;     // no NVML: nothing will ever come
  bool stopped = false;  // nobody asks any more

  void run() {
    Nvml nvml;
    const bool loaded = nvml.load();
    std::unique_lock lock(mutex);
    gone = !loaded;
    changed.notify_all();
    while (loaded && !stopped) {
      changed.wait(lock, [this] { return stopped || asked != answered; });
      if (stopped) return;
      const std::uint64_t request = asked;
      lock.unlock();
      std::vector<GpuMemory> sampled = nvml.sample();
      lock.lock();
      newest = std::move(sampled);
      answered = request;
      changed.notify_all();
    }
  }
};

bool GpuProbe::was_started() { return started.load(); }

GpuProbe::GpuProbe() : state_(std::make_shared<State>()) {
  started.store(true);
  std::thread([state = state_] { state->run(); }).detach();
}

GpuProbe::~GpuProbe() {
  std::lock_guard lock(state_->mutex);
  state_->stopped = true;
  state_->changed.notify_all();
}

std::vector<GpuMemory> GpuProbe::sample(int longest_ms) {
  std::unique_lock lock(state_->mutex);
  const std::uint64_t request = ++state_->asked;
  state_->changed.notify_all();
  state_->changed.wait_for(lock, std::chrono::milliseconds(longest_ms),
                           [&] { return state_->gone || state_->answered >= request; });
  return state_->newest;
}

}  // namespace kvshim::cli
