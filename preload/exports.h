// The exported wrappers of the driver's entry points (exports.cpp is generated
// from entry_points.def). Only the shared library holds them: whatever links
// kvshim_preload_objects calls hooks directly.
#pragma once

#include <cuda.h>

#define KVSHIM_EXPORT __attribute__((visibility("default")))

namespace kvshim::preload {

/// Addresses of the wrappers in the order of entry_points.def.
extern void* const kExportedWrappers[];

/// What a wrapper answers when the loaded driver lacks its function, or when the
/// process never loaded a driver (it then found our symbol in the global scope).
CUresult answer_missing() noexcept;

}  // namespace kvshim::preload
