// What swaps cost the driver as parking and coming back make them.
#pragma once

#include "bench/mapping_calls.h"

namespace kvshim::bench {

/// Adjacent handles mapped one by one and opened and unmapped by one call for several:
/// whether the driver takes it, and what each step costs. One line of JSON for each kind of
/// memory, size of handles and number of them in a call.
void measure_joined_mappings(const MappingDevice& on);

/// 512 MiB swapped from resident handles of 2 MiB to host memory in blocks of 8 MiB, and
/// back to GPU memory in such blocks: 1, 4 or 16 adjacent blocks in a call; on a GPU with
/// nothing to do, beside copies to the host, and beside copies from it. A line of JSON each.
void measure_swaps(const MappingDevice& on);

/// As parking goes on: some blocks are copied while as many are swapped, and waited for, and
/// so on. What a MiB takes altogether tells how many it should be, and whether a common call
/// for several waits for the copies once or for each of them. A line of JSON each.
void measure_paces(const MappingDevice& on);

/// The making and the release of handles of GPU memory that lie nowhere (any more), on an idle GPU
/// and beside copies to the host. A line of JSON for each size.
void measure_releases(const MappingDevice& on);

}  // namespace kvshim::bench
