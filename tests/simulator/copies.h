// Copies in all shapes, brought to one form.
#pragma once

#include <vector>

#include "tests/simulator/operations.h"

namespace kvshim::simulator {

/// Checks addresses and pitches at the time of the call and resolves arrays:
/// INVALID_VALUE for device addresses with a hole.
CUresult describe_copy(const CUDA_MEMCPY3D& given, CopyOperation* copy);
/// Queues a copy, as the call with these words does; `wait`: and waits for it, as the
/// synchronous calls do, unless both ends are on the device.
CUresult submit_copy(const CUDA_MEMCPY3D& given, CUstream stream, bool wait);
CUresult check_fill(const CUDA_MEMSET_NODE_PARAMS& fill);
/// Only what does not depend on the mappings.
CUresult check_fill_shape(const CUDA_MEMSET_NODE_PARAMS& fill);

/// Memory behind an array handle; null when there is none.
struct ArrayMemory {
  std::vector<std::byte> bytes;
  std::size_t row_bytes = 0, rows = 1;
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
};
ArrayMemory* find_array(CUarray array);

/// Carried out on the calling thread; may fault.
void perform(const CopyOperation& copy);
void perform(const CUDA_MEMSET_NODE_PARAMS& fill);

}  // namespace kvshim::simulator
