// NVML as far as kvshim meets it: the structs of its stable interface (nvml.h of
// CUDA 12; NVML keeps them as they are, a changed struct gets a new function), and
// the functions of the library that the process itself has loaded.
#pragma once

namespace kvshim::preload {

using NvmlDevice = void*;
inline constexpr int kNvmlSuccess = 0;
inline constexpr int kNvmlLibraryNotFound = 12;
inline constexpr int kNvmlFunctionNotFound = 13;

struct NvmlMemory {
  unsigned long long total, free, used;
};
/// total = reserved + used + free.
struct NvmlMemoryV2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};

/// Null where the library lacks the function, or isn't loaded.
struct RealNvml {
#define KVSHIM_NVML_ANSWERED(name, memory, note) int (*name)(NvmlDevice, memory*) = nullptr;
#include "preload/nvml_entry_points.def"
  int (*nvmlDeviceGetUUID)(NvmlDevice, char*, unsigned) = nullptr;
  bool loaded = false;
};

/// The functions of the libnvidia-ml.so.1 that the process has loaded. kvshim never
/// loads it; while nobody has, all are null, and the next call looks again. Once found it
/// stays loaded. Any thread; takes no lock of ours.
const RealNvml& real_nvml() noexcept;

/// Rows of KVSHIM_NVML_ANSWERED, counted from 0.
inline constexpr int kNvmlRows = 0
#define KVSHIM_NVML_ANSWERED(name, memory, note) +1
#include "preload/nvml_entry_points.def"
    ;
/// The row of exactly this name, or -1. Needs no library.
int nvml_row_named(const char* name) noexcept;
/// REQUIRES 0 <= row < kNvmlRows. Null where missing.
void* real_nvml_function(int row) noexcept;

/// The exported wrappers, in the order of the rows (nvml_exports.cpp: only the shared
/// library has them).
extern void* const kNvmlWrappers[];

}  // namespace kvshim::preload
