// NVML's memory queries from inside the process, answered as cuMemGetInfo is.
#pragma once

#include "preload/nvml_library.h"

namespace kvshim::preload {

/// Asks `function` (NVML's own) and gives the private view of what it said. NVML's answer
/// stays untouched when it is an error, before CUDA is initialised here, with
/// memory_view = "physical", on a GPU that CUDA doesn't see in this process, and where
/// neither pools, neighbours nor a limit change anything. Any thread, with or without a
/// context; no call of it waits for the GPU. `Memory`: a struct of nvml_library.h.
template <class Memory>
int answer_nvml(int (*function)(NvmlDevice, Memory*), NvmlDevice device, Memory* memory) noexcept;

}  // namespace kvshim::preload
