// The state that shim.cpp keeps in the real library, settable by the test.
#include "preload/shim.h"

#include <string>

#include "observe/log.h"
#include "preload/nvml_view.h"

namespace kvshim::preload {

namespace shim_detail {
std::atomic<bool> active{false};
}

void shim_after_cuinit(CUresult result) noexcept {
  if (result == CUDA_SUCCESS) shim_detail::active.store(true);
}

// NVML's answers have tests of their own (tests/preload/nvml).
template <class Memory>
int answer_nvml(int (*function)(NvmlDevice, Memory*), NvmlDevice device, Memory* memory) noexcept {
  return function(device, memory);
}
#define KVSHIM_NVML_ANSWERED(name, memory, note) \
  template int answer_nvml<memory>(int (*)(NvmlDevice, memory*), NvmlDevice, memory*) noexcept;
#include "preload/nvml_entry_points.def"

}  // namespace kvshim::preload

namespace {
std::string* logged() {
  static auto* text = new std::string;
  return text;
}
}  // namespace

namespace kvshim::log {
void write(config::LogLevel, std::string_view text,
           std::chrono::system_clock::time_point) noexcept {
  *logged() += text;
}
}  // namespace kvshim::log

extern "C" __attribute__((visibility("default"))) const char* kvshim_test_log() {
  return logged()->c_str();
}

extern "C" __attribute__((visibility("default"))) void kvshim_test_set_active(bool on) {
  kvshim::preload::shim_detail::active.store(on);
}
