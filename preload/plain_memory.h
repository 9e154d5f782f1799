// GPU memory of this process that is no pool, as far as its allocations were seen: what
// a limit counts beside the pools.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

/// A plain allocation of the current context's device succeeded, or is being freed (an
/// address that was never counted changes nothing). Any thread; a hash table's time.
void count_plain(CUdeviceptr address, std::size_t bytes) noexcept;
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
