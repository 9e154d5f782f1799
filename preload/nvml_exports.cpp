// The exported wrappers of NVML's functions: for programs that are linked to it. Others
// get their addresses from dlsym (resolver.cpp).
#include "preload/exports.h"
#include "preload/nvml_library.h"
#include "preload/nvml_view.h"

using namespace kvshim::preload;  // NOLINT: nothing but the wrappers stands here

extern "C" {

// Without NVML they answer what a program that looks for it by name would find out.
#define KVSHIM_NVML_ANSWERED(name, memory, note)                         \
  KVSHIM_EXPORT int name(NvmlDevice device, memory* answer) {            \
    const RealNvml& nvml = real_nvml();                                  \
    if (nvml.name == nullptr) {                                          \
      return nvml.loaded ? kNvmlFunctionNotFound : kNvmlLibraryNotFound; \
    }                                                                    \
    return answer_nvml(nvml.name, device, answer);                       \
  }
#include "preload/nvml_entry_points.def"

}  // extern "C"

namespace kvshim::preload {

void* const kNvmlWrappers[] = {
#define KVSHIM_NVML_ANSWERED(name, memory, note) reinterpret_cast<void*>(&::name),
#include "preload/nvml_entry_points.def"
};

}  // namespace kvshim::preload
