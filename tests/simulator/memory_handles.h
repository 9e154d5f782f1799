// Handles of physical memory (cuMemCreate and relatives).
#pragma once

#include <memory>
#include <optional>

#include "tests/simulator/address_space.h"
#include "tests/simulator/physical_memory.h"

namespace kvshim::simulator {

/// What a handle stands for. The memory lives as long as somebody has this.
struct HeldMemory {
  std::shared_ptr<PhysicalPiece> piece;
  CUmemAllocationProp properties{};
};

/// Nothing when no such handle lives.
std::optional<HeldMemory> find_handle(CUmemGenericAllocationHandle handle);
/// One reference more; a handle that was released is valid again.
void retain_handle(CUmemGenericAllocationHandle handle, const HeldMemory& memory);
Tally live_handles();

inline bool is_page_multiple(std::uint64_t value) { return value != 0 && value % kPageBytes == 0; }

}  // namespace kvshim::simulator
