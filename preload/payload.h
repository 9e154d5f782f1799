// Host memory that is copied to the device may carry addresses of pools.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "preload/copy_range.h"
#include "preload/gate.h"

namespace kvshim::preload {

/// Whether any pool exists or existed (so that addresses matter). No lock.
inline bool pools_exist() noexcept { return gate_detail::arena_bytes != 0; }

/// Whether the driver knows the address as device (or managed) memory. Such a
/// "host" pointer is legal where addresses are unified, and must not be read
/// here. One driver call of some 100 ns, legal during captures.
bool is_device_memory(std::uint64_t address) noexcept;

/// Searches what is about to be copied from host memory, row by row. Skips device
/// memory, and host memory of the driver's that only the GPU may read; does nothing
/// while no pool exists.
void search_payload(StreamRef stream, const CopySide& source, const CopyExtent& extent);

inline void search_payload(StreamRef stream, const void* source, std::size_t bytes) {
  search_payload(stream, {.base = reinterpret_cast<std::uintptr_t>(source)}, {.width = bytes});
}

}  // namespace kvshim::preload
