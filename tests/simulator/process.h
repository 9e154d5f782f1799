// The life of the driver in this process: before cuInit, initialized, forked,
// ending.
#pragma once

#include "tests/simulator/api.h"

namespace kvshim::simulator {

/// CUDA_SUCCESS between cuInit and the process's exit; NOT_INITIALIZED before
/// it and in a forked child, DEINITIALIZED once exit handlers run. No lock.
CUresult process_state() noexcept;

/// Bytes of simulated GPU memory (KVSHIM_SIM_MEMORY, default 8 GiB) and
/// whether the device offers virtual memory management (KVSHIM_SIM_NO_VMM).
std::size_t configured_memory() noexcept;
bool vmm_supported() noexcept;

}  // namespace kvshim::simulator
