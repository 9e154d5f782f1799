// The other processes on a GPU, through the shared segment: asking them for memory,
// giving it to them, obeying who steers this process.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "preload/gate.h"
#include "vmm/pressure.h"

namespace kvshim::segment {
class Owner;
}

namespace kvshim::preload {

class Runtime;

/// The neighbours on a device; null when the option `segment` is off. Never destroyed.
vmm::Pressure* neighbours_of(const Runtime& runtime, CUdevice device);

/// One pass of the housekeeping thread: where the process has become a member, a thread
/// begins to listen to neighbours and tools.
void update_neighbours(Runtime& runtime) noexcept;
/// At exit: nobody listens any more. In a forked child: nobody does yet.
void end_neighbours() noexcept;
void abandon_neighbours_after_fork() noexcept;

/// What this process's pools and caches hold on the device, told anew to a segment that it has
/// just joined.
void tell_held(CUdevice device, segment::Owner& owner) noexcept;

/// Bytes that neighbours' pools and caches hold on the device, also for a process that
/// is no member (yet). Below a millisecond.
std::uint64_t elastic_elsewhere(const Runtime& runtime, CUdevice device) noexcept;

/// For an allocation of `bytes` that found no memory (no pool's): asks the neighbours, waits,
/// at most a second, until that much is free, and allocates again. Out of memory when there
/// is nobody to ask. Several threads' allocations are asked for together. The current
/// context's device; not in a capture.
CUresult allocate_when_neighbours_gave(Runtime& runtime, CUdevice device, std::uint64_t bytes,
                                       SubmitRef allocate);

}  // namespace kvshim::preload
