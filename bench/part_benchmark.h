// What it costs to swap a block of GPU memory for several handles of host memory.
#pragma once

#include "bench/mapping_calls.h"

namespace kvshim::bench {

/// As parking goes on with blocks that are parked in parts: while one is swapped, the next one is
/// copied to host memory, all of it at once or step by step (vmm/copy_steps.h). First what the
/// swaps take beside nothing. A line of JSON each.
void measure_parts(const MappingDevice& on);

}  // namespace kvshim::bench
