// Allocations that are no pools. They count for the limit; when one finds no memory, pools
// give way to it and it is tried again.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "preload/gate.h"

namespace kvshim::preload {

class Runtime;

/// An allocation of the engine's own on the current context's device: `allocate` makes the
/// real call, more than once if need be. Refused with out of memory beyond the limit.
/// Counted with `*address` (null: who calls counts it). `bytes` may be 0: unknown.
CUresult allocate_plain(CUdeviceptr* address, std::size_t bytes, SubmitRef allocate);

/// After `allocate` found no memory for `bytes`: own idle pools give way, then the
/// neighbours', and it is tried again after each. Waits while pools give; for a second
/// when they don't, ten in any case, not at all where it can't be had, in a capture, or
/// when as much has just been pressed for in vain on that device.
CUresult press_for(Runtime& runtime, CUdevice index, std::uint64_t bytes, SubmitRef allocate);

}  // namespace kvshim::preload
