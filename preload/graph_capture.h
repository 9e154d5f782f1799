// Which graphs carry guards in front of all their writers: those that were
// captured whole under the hooks and not edited since. Everything else ("manual")
// is made present when it is instantiated.
//
// A record is only ever lost in the safe direction: a graph without one counts
// as manual.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "preload/gate.h"

namespace kvshim::preload {

namespace graph_capture_detail {
extern std::atomic<int> captures;
}

/// Whether a capture may be under way somewhere in the process: never false while
/// one is. One relaxed load.
inline bool any_capture() noexcept {
  return graph_capture_detail::captures.load(std::memory_order_relaxed) > 0;
}

/// After a capture began on `stream`. `into_existing` for a capture into a graph
/// of the caller's, whose other nodes have no guards.
void capture_began(StreamRef stream, bool into_existing) noexcept;

/// After the real cuStreamEndCapture answered `result` and `graph`.
void capture_ended(StreamRef stream, CUresult result, CUgraph graph) noexcept;
/// The stream is gone, and with it a capture that began on it.
void stream_gone(CUstream stream) noexcept;
/// A context is gone with its streams and what they captured.
void captures_gone(CUcontext ended) noexcept;

/// The capture that `stream` takes part in received a node that no guard covers.
/// Nothing happens when it isn't capturing.
void capture_gets_unguarded_work(StreamRef stream) noexcept;

bool graph_is_guarded(CUgraph graph) noexcept;
/// Nodes were added to the graph, or edges removed, by hand.
void graph_edited(CUgraph graph) noexcept;
/// The graph is part of another one, whose records an edit of it concerns as well.
void graph_embedded(CUgraph graph) noexcept;
/// A node of some graph was changed or removed by hand. The driver doesn't say of
/// which graph, so every record is dropped; executables keep what they have.
void node_edited() noexcept;
void graph_cloned(CUgraph original, CUgraph clone) noexcept;
/// The graph is gone, or belongs to a parent from now on.
void graph_gone(CUgraph graph) noexcept;

/// The bodies of a conditional node are told only when it is created.
void conditional_added(CUgraphNode node, std::span<const CUgraph> bodies) noexcept;
/// Empty when the node is not known.
std::vector<CUgraph> conditional_bodies(CUgraphNode node);

/// In a forked child: the parent's records are left alone, their lock too.
void abandon_captures_after_fork() noexcept;

}  // namespace kvshim::preload
