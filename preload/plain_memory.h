// GPU memory of this process that is no pool, as far as its allocations were seen: what
// a limit counts beside the pools.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

/// A plain allocation of the current context's device begins: until it ends it counts beside
/// what there is, so that two threads don't both get the last of a limit. Gives plain_bytes()
/// with all that have begun. Any thread; a lock.
std::uint64_t begin_plain(CUdevice device, std::size_t bytes) noexcept;
/// It ended: its memory is counted from now on; at 0 it is not (none, or counted elsewhere).
void end_plain(CUdevice device, std::size_t bytes, CUdeviceptr address) noexcept;
/// A plain allocation is being freed (an address that was never counted changes nothing). Any
/// thread; a hash table's time.
void uncount_plain(CUdeviceptr address) noexcept;
/// Of what has no address of its own (engine_memory.cpp): more or less of it.
void change_plain(CUdevice device, std::int64_t bytes) noexcept;
/// What a context takes along when it ends.
void uncount_plain_of(CUcontext context) noexcept;
/// Bytes of a device, with those that engine_memory.h counts. Not in it: what the driver
/// itself needs (contexts, modules, graphs) and managed memory.
std::uint64_t plain_bytes(CUdevice device) noexcept;
void forget_plain_after_fork() noexcept;

}  // namespace kvshim::preload
