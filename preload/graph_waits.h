// Graphs that wait for somebody outside of them.
#pragma once

#include <cuda.h>

namespace kvshim::preload {

/// Whether some node, embedded graphs and conditional bodies included, can make the
/// graph wait for a host thread or for another stream: a host function, an event, an
/// external semaphore, a batch of memory operations, an allocation. A node that can't be
/// read counts as one. One driver call for each node. Throws std::bad_alloc.
bool graph_waits(CUgraph graph);

}  // namespace kvshim::preload
