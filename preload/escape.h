// What scan_payload() looks for; the rest of it is part of the gate (gate.h).
#pragma once

#include <cuda.h>

#include <cstddef>

namespace kvshim::preload {

/// A new pool takes these addresses: launch arguments of an earlier one there say nothing
/// about it. REQUIRES that no launch can name the pool yet. Some microseconds, 10 ms after
/// millions of different launch arguments.
void forget_arguments(CUdeviceptr address, std::size_t bytes) noexcept;

}  // namespace kvshim::preload
