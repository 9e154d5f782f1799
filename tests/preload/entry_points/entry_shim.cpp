// The state that shim.cpp keeps in the real library, settable by the test.
#include "preload/shim.h"

#include <string>

#include "observe/log.h"

namespace kvshim::preload {

namespace shim_detail {
std::atomic<bool> active{false};
}

void shim_after_cuinit(CUresult result) noexcept {
  if (result == CUDA_SUCCESS) shim_detail::active.store(true);
}

}  // namespace kvshim::preload

namespace {
std::string* logged() {
  static auto* text = new std::string;
  return text;
}
}  // namespace

namespace kvshim::log {
void write(config::LogLevel, std::string_view text) noexcept { *logged() += text; }
}  // namespace kvshim::log

extern "C" __attribute__((visibility("default"))) const char* kvshim_test_log() {
  return logged()->c_str();
}

extern "C" __attribute__((visibility("default"))) void kvshim_test_set_active(bool on) {
  kvshim::preload::shim_detail::active.store(on);
}
