// The reach of a graph, read from its nodes: which pools it touches, and what it
// would write without guards.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <string>
#include <vector>

#include "preload/gate.h"

namespace kvshim::preload {

struct GraphReach {
  /// Whole pools that some node touches, each once, never writing.
  std::vector<Access> touched;
  /// What must be present when no guard runs in front of the nodes. A known
  /// writer's destinations count with their whole pools: its slots are not known
  /// before it runs.
  std::vector<Access> written;
  /// Kernels of the shim that were captured are among the nodes, so that guards may ask.
  bool has_own_kernels = false;
  /// The device may change parameters of a node that touches a pool.
  bool device_updatable = false;
  /// Kernels of which nothing is known, for the log.
  struct UnknownKernel {
    std::string name;
    std::string words;
    std::size_t bytes = 0;
  };
  std::vector<UnknownKernel> unknown_kernels;
  /// Pool words of kernel nodes, to be remembered as launch arguments.
  std::vector<std::uint64_t> words;

  bool empty() const { return touched.empty(); }
};

/// Walks all nodes, child graphs and conditional bodies included. A node that
/// can't be read makes it reach every pool. One driver call for each node (about
/// a microsecond). Throws std::bad_alloc.
GraphReach reach_of_graph(CUgraph graph);

/// The reach of single nodes, for the setters.
void add_kernel(GraphReach* reach, const CUDA_KERNEL_NODE_PARAMS_v2& node);
void add_memcpy(GraphReach* reach, const CUDA_MEMCPY3D& copy);
void add_memset(GraphReach* reach, const CUDA_MEMSET_NODE_PARAMS& fill);
void add_memory_operations(GraphReach* reach, const CUstreamBatchMemOpParams* operations,
                           std::size_t count);
void add_graph(GraphReach* reach, CUgraph graph);
void add_every_pool(GraphReach* reach);

/// Whether the node is a guard that was captured in front of its work (null: no).
bool is_guard_node(CUgraphNode node);

}  // namespace kvshim::preload
