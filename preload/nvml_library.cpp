#include "preload/nvml_library.h"

#include <dlfcn.h>

#include <atomic>
#include <new>
#include <string_view>

#include "preload/real_dlsym.h"

namespace kvshim::preload {
namespace {

constexpr RealNvml kNotLoaded;
std::atomic<const RealNvml*> found{nullptr};

template <class Function>
void look_up(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(real_dlsym(library, name));
}

}  // namespace

const RealNvml& real_nvml() noexcept {
  if (const RealNvml* known = found.load(std::memory_order_acquire)) return *known;
  void* library = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    (void)dlerror();
    return kNotLoaded;
  }
  auto* candidate = new (std::nothrow) RealNvml;
  if (candidate == nullptr) return kNotLoaded;
  candidate->loaded = true;
#define KVSHIM_NVML_ANSWERED(name, memory, note) look_up(library, #name, &candidate->name);
#include "preload/nvml_entry_points.def"
  look_up(library, "nvmlDeviceGetUUID", &candidate->nvmlDeviceGetUUID);
  // What an older library lacks left a message that the host would take for its own.
  (void)dlerror();
  const RealNvml* expected = nullptr;
  if (found.compare_exchange_strong(expected, candidate, std::memory_order_acq_rel)) {
    return *candidate;
  }
  delete candidate;
  return *expected;
}

int nvml_row_named(const char* name) noexcept {
  static constexpr std::string_view kNames[] = {
#define KVSHIM_NVML_ANSWERED(name, memory, note) #name,
#include "preload/nvml_entry_points.def"
  };
  const std::string_view wanted(name);
  for (int row = 0; row < kNvmlRows; ++row) {
    if (wanted == kNames[row]) return row;
  }
  return -1;
}

void* real_nvml_function(int row) noexcept {
  const RealNvml& nvml = real_nvml();
  void* const functions[] = {
#define KVSHIM_NVML_ANSWERED(name, memory, note) reinterpret_cast<void*>(nvml.name),
#include "preload/nvml_entry_points.def"
  };
  return functions[row];
}

}  // namespace kvshim::preload
