// Graphs edited by hand: whatever is added or changed has no guard, so the graph
// is no longer taken to be covered by those it was captured with.
#include <span>

#include "preload/graph_capture.h"
#include "preload/graph_node_params.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"
#include "preload/root_scan.h"

namespace kvshim::preload {

namespace {

// The note comes first: too early is only careful, too late could be missed by
// an instantiation in another thread.

class PinForTheCall {
 public:
  explicit PinForTheCall(PinId id) : id_(id) {}
  ~PinForTheCall() {
    if (id_ != kNoPin) unpin(id_);
  }
  PinForTheCall(const PinForTheCall&) = delete;
  PinForTheCall& operator=(const PinForTheCall&) = delete;

 private:
  PinId id_;
};

void adds_nothing(GraphReach*) {}

// The driver looks at what nodes copy and fill (`add` tells what that is), and refuses a
// destination that is absent. It stays present for the call: an instantiation looks again, and
// keeps what the graph writes (graph_exec.cpp).
template <class Add>
CUresult look(Add&& add, SubmitRef submit) noexcept {
  if (!any_pool_ever()) return submit();
  return at_boundary([&] {
    GraphReach reach;
    add(&reach);
    if (reach.written.empty()) return retry_over_holes(submit);
    CUresult result = CUDA_SUCCESS;
    const PinForTheCall pinned(pin(reach.written, &result));
    return result == CUDA_SUCCESS ? retry_while_absent(reach.written, submit) : result;
  });
}

template <class Add>
CUresult edit_graph(CUgraph graph, Add&& add, SubmitRef submit) noexcept {
  graph_edited(graph);
  return look(add, submit);
}

template <class Add>
CUresult edit_node(Add&& add, SubmitRef submit) noexcept {
  node_edited();
  return look(add, submit);
}

// What the parameters of a node of one kind reach, for look(). The driver answers for null.

auto reach_of_node(const CUDA_MEMCPY3D* params) {
  return [params](GraphReach* reach) {
    if (params != nullptr) add_memcpy(reach, *params);
  };
}

auto reach_of_node(const CUDA_MEMSET_NODE_PARAMS* params) {
  return [params](GraphReach* reach) {
    if (params != nullptr) add_memset(reach, *params);
  };
}

auto reach_of_node(const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  return [params](GraphReach* reach) {
    if (params != nullptr && params->paramArray != nullptr) {
      add_memory_operations(reach, params->paramArray, params->count);
    }
  };
}

auto reach_of_node(const CUgraphNodeParams* params) {
  return [params](GraphReach* reach) {
    if (params != nullptr) add_copy_or_fill(reach, *params);
  };
}

CUresult note_new_node(CUgraphNode* node, const CUgraphNodeParams* params, CUresult result) {
  if (result != CUDA_SUCCESS || node == nullptr || params == nullptr) return result;
  if (params->type == CU_GRAPH_NODE_TYPE_CONDITIONAL && params->conditional.phGraph_out) {
    conditional_added(
        *node, std::span<const CUgraph>(params->conditional.phGraph_out, params->conditional.size));
  } else if (params->type == CU_GRAPH_NODE_TYPE_GRAPH &&
             params->graph.ownership == CU_GRAPH_CHILD_GRAPH_OWNERSHIP_MOVE) {
    graph_gone(params->graph.graph);
  }
  return result;
}

}  // namespace

CUresult hook_cuGraphAddKernelNode(CUgraphNode* node, CUgraph graph,
                                   const CUgraphNode* dependencies, size_t count,
                                   const CUDA_KERNEL_NODE_PARAMS_v1* params) noexcept {
  return edit_graph(graph, adds_nothing, [&] {
    return real().cuGraphAddKernelNode(node, graph, dependencies, count, params);
  });
}

CUresult hook_cuGraphAddKernelNode_v2(CUgraphNode* node, CUgraph graph,
                                      const CUgraphNode* dependencies, size_t count,
                                      const CUDA_KERNEL_NODE_PARAMS* params) noexcept {
  return edit_graph(graph, adds_nothing, [&] {
    return real().cuGraphAddKernelNode_v2(node, graph, dependencies, count, params);
  });
}

CUresult hook_cuGraphAddMemcpyNode(CUgraphNode* node, CUgraph graph,
                                   const CUgraphNode* dependencies, size_t count,
                                   const CUDA_MEMCPY3D* params, CUcontext ctx) noexcept {
  return edit_graph(graph, reach_of_node(params), [&] {
    return real().cuGraphAddMemcpyNode(node, graph, dependencies, count, params, ctx);
  });
}

CUresult hook_cuGraphAddMemsetNode(CUgraphNode* node, CUgraph graph,
                                   const CUgraphNode* dependencies, size_t count,
                                   const CUDA_MEMSET_NODE_PARAMS* params, CUcontext ctx) noexcept {
  return edit_graph(graph, reach_of_node(params), [&] {
    return real().cuGraphAddMemsetNode(node, graph, dependencies, count, params, ctx);
  });
}

CUresult hook_cuGraphAddBatchMemOpNode(CUgraphNode* node, CUgraph graph,
                                       const CUgraphNode* dependencies, size_t count,
                                       const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) noexcept {
  return edit_graph(graph, reach_of_node(params), [&] {
    return real().cuGraphAddBatchMemOpNode(node, graph, dependencies, count, params);
  });
}

CUresult hook_cuGraphAddChildGraphNode(CUgraphNode* node, CUgraph graph,
                                       const CUgraphNode* dependencies, size_t count,
                                       CUgraph child) noexcept {
  return edit_graph(graph, adds_nothing, [&] {
    return real().cuGraphAddChildGraphNode(node, graph, dependencies, count, child);
  });
}

CUresult hook_cuGraphAddNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                             size_t count, CUgraphNodeParams* params) noexcept {
  return edit_graph(graph, reach_of_node(params), [&] {
    return note_new_node(node, params,
                         real().cuGraphAddNode(node, graph, dependencies, count, params));
  });
}

CUresult hook_cuGraphAddNode_v2(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies,
                                const CUgraphEdgeData* edges, size_t count,
                                CUgraphNodeParams* params) noexcept {
  return edit_graph(graph, reach_of_node(params), [&] {
    return note_new_node(node, params,
                         real().cuGraphAddNode_v2(node, graph, dependencies, edges, count, params));
  });
}

CUresult hook_cuGraphDestroyNode(CUgraphNode node) noexcept {
  return edit_node(adds_nothing, [&] { return real().cuGraphDestroyNode(node); });
}

CUresult hook_cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode* from,
                                        const CUgraphNode* to, size_t count) noexcept {
  return edit_graph(graph, adds_nothing,
                    [&] { return real().cuGraphRemoveDependencies(graph, from, to, count); });
}

CUresult hook_cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode* from,
                                           const CUgraphNode* to, const CUgraphEdgeData* edges,
                                           size_t count) noexcept {
  return edit_graph(graph, adds_nothing, [&] {
    return real().cuGraphRemoveDependencies_v2(graph, from, to, edges, count);
  });
}

CUresult hook_cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph* graph) noexcept {
  const CUresult result = real().cuGraphChildGraphNodeGetGraph(node, graph);
  if (result == CUDA_SUCCESS && graph != nullptr) graph_embedded(*graph);
  return result;
}

CUresult hook_cuGraphKernelNodeSetParams(CUgraphNode node,
                                         const CUDA_KERNEL_NODE_PARAMS_v1* params) noexcept {
  return edit_node(adds_nothing, [&] { return real().cuGraphKernelNodeSetParams(node, params); });
}

CUresult hook_cuGraphKernelNodeSetParams_v2(CUgraphNode node,
                                            const CUDA_KERNEL_NODE_PARAMS* params) noexcept {
  return edit_node(adds_nothing,
                   [&] { return real().cuGraphKernelNodeSetParams_v2(node, params); });
}

CUresult hook_cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D* params) noexcept {
  return edit_node(reach_of_node(params),
                   [&] { return real().cuGraphMemcpyNodeSetParams(node, params); });
}

CUresult hook_cuGraphMemsetNodeSetParams(CUgraphNode node,
                                         const CUDA_MEMSET_NODE_PARAMS* params) noexcept {
  return edit_node(reach_of_node(params),
                   [&] { return real().cuGraphMemsetNodeSetParams(node, params); });
}

CUresult hook_cuGraphBatchMemOpNodeSetParams(CUgraphNode node,
                                             const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) noexcept {
  return edit_node(reach_of_node(params),
                   [&] { return real().cuGraphBatchMemOpNodeSetParams(node, params); });
}

CUresult hook_cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams* params) noexcept {
  return edit_node(reach_of_node(params),
                   [&] { return real().cuGraphNodeSetParams(node, params); });
}

CUresult hook_cuGraphClone(CUgraph* clone, CUgraph original) noexcept {
  const CUresult result = real().cuGraphClone(clone, original);
  if (result == CUDA_SUCCESS && clone != nullptr) graph_cloned(original, *clone);
  return result;
}

CUresult hook_cuGraphDestroy(CUgraph graph) noexcept {
  const CUresult result = real().cuGraphDestroy(graph);
  if (result == CUDA_SUCCESS) graph_gone(graph);
  return result;
}

}  // namespace kvshim::preload
