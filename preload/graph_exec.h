// Executable graphs: what each reaches, and the pins it holds.
//
// An executable whose graph carries guards needs no pins. Any other keeps what it
// would write present for as long as it lives; one that the device launches or
// changes by itself keeps all it touches, since the gate doesn't see those
// launches. Every launch through the host submits the executable's reach.
#pragma once

#include <cuda.h>

#include "preload/gate.h"
#include "preload/graph_reach.h"
#include "preload/root_scan.h"

namespace kvshim::preload {

/// Instantiation: `submit` makes the real call and fills in `*exec`. Pins first,
/// so that a failed pin leaves nothing to undo; its error is returned.
CUresult instantiate_graph(CUgraph graph, unsigned long long flags, CUgraphExec* exec,
                           SubmitRef submit) noexcept;

/// cuGraphExecUpdate: all nodes take the graph's parameters.
CUresult update_exec(CUgraphExec exec, CUgraph graph, SubmitRef submit) noexcept;

/// A change of one node of the executable: `add` fills in the reach of the new
/// parameters. What they write is pinned, guards notwithstanding, unless `guarded`
/// (a child graph with guards of its own). A guard that is changed covers nothing
/// any more: the executable then keeps all it touches.
template <class Add>
CUresult change_exec(CUgraphExec exec, CUgraphNode node, bool guarded, Add&& add,
                     SubmitRef submit) noexcept;

/// cuGraphLaunch, also into a capture, where it becomes a child graph node. An
/// executable that reaches no pool goes straight to the driver; no lock then, unless its
/// launch may make the stream wait (graph_waits.h): that is told to the gate before.
CUresult launch_exec(StreamRef stream, CUgraphExec exec, SubmitRef submit) noexcept;

/// After the real destruction.
void exec_destroyed(CUgraphExec exec) noexcept;

/// In a forked child: the parent's records are left alone, their locks too.
void abandon_executables_after_fork() noexcept;

namespace graph_exec_detail {
CUresult add_to_exec(CUgraphExec exec, bool loses_guard, bool guarded, const GraphReach& addition,
                     SubmitRef submit);
}

template <class Add>
CUresult change_exec(CUgraphExec exec, CUgraphNode node, bool guarded, Add&& add,
                     SubmitRef submit) noexcept {
  if (!any_pool_ever()) return submit();
  read_nodes_change();
  try {
    GraphReach addition;
    add(&addition);
    const bool loses_guard = is_guard_node(node);
    if (addition.empty() && !loses_guard) return submit();
    return graph_exec_detail::add_to_exec(exec, loses_guard, guarded, addition, submit);
  } catch (...) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
}

}  // namespace kvshim::preload
