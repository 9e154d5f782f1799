// Graphs as the user builds and walks them: creation, edges, queries.
#include <algorithm>

#include "tests/simulator/graphs.h"

namespace kvshim::simulator {
namespace {

/// The two-call protocol: count alone, or fill up to *count and say how many.
template <class T>
CUresult list(const std::vector<T>& found, T* out, std::size_t* count) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (out == nullptr) {
    *count = found.size();
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; ++i) out[i] = i < found.size() ? found[i] : T{};
  *count = std::min(*count, found.size());
  return CUDA_SUCCESS;
}

void no_edge_data(CUgraphEdgeData* data, const std::size_t* count) {
  if (data != nullptr && count != nullptr) std::fill_n(data, *count, CUgraphEdgeData{});
}

CUresult edges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, std::size_t* count) {
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, handle);
  if (graph == nullptr || (from == nullptr) != (to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUgraphNode> sources, targets;
  for (const auto& node : graph->nodes) {
    for (Node* before : node->dependencies) {
      sources.push_back(handle_of(before));
      targets.push_back(handle_of(node.get()));
    }
  }
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::size_t asked = *count;
  if (const CUresult bad = list(sources, from, &asked); bad != CUDA_SUCCESS) return bad;
  return list(targets, to, count);
}

CUresult dependencies(CUgraphNode handle, CUgraphNode* out, std::size_t* count) {
  const StreamLock lock(stream_mutex());
  const Node* node = find_node(lock, handle);
  if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUgraphNode> found;
  for (Node* before : node->dependencies) found.push_back(handle_of(before));
  return list(found, out, count);
}

CUresult dependents(CUgraphNode handle, CUgraphNode* out, std::size_t* count) {
  const StreamLock lock(stream_mutex());
  Node* node = find_node(lock, handle);
  if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUgraphNode> found;
  for (const auto& other : node->graph->nodes) {
    const auto& before = other->dependencies;
    if (std::find(before.begin(), before.end(), node) != before.end()) {
      found.push_back(handle_of(other.get()));
    }
  }
  return list(found, out, count);
}

CUresult change_edges(CUgraph graph_handle, const CUgraphNode* from, const CUgraphNode* to,
                      std::size_t count, bool add) {
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, graph_handle);
  if (graph == nullptr || (count != 0 && (from == nullptr || to == nullptr))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (std::size_t i = 0; i < count; ++i) {
    Node* before = find_node(lock, from[i]);
    Node* after = find_node(lock, to[i]);
    if (before == nullptr || after == nullptr || before->graph != graph.get() ||
        after->graph != graph.get()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    auto& known = after->dependencies;
    const bool exists = std::find(known.begin(), known.end(), before) != known.end();
    if (exists == add) return CUDA_ERROR_INVALID_VALUE;
    if (before == after) return CUDA_ERROR_INVALID_VALUE;
    if (add) {
      known.push_back(before);
    } else {
      std::erase(known, before);
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuGraphCreate(CUgraph* graph, unsigned flags) {
  if (graph == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  auto made = make_graph(lock);
  *graph = handle_of(made.get());
  publish_graph(lock, std::move(made));
  return CUDA_SUCCESS;
}

CUresult api::cuGraphDestroy(CUgraph handle) {
  std::shared_ptr<Graph> last;
  const StreamLock lock(stream_mutex());
  last = find_graph(lock, handle);
  return forget_graph(lock, handle) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuGraphClone(CUgraph* clone, CUgraph original) {
  if (clone == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, original);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto made = clone_graph(lock, *graph);
  *clone = handle_of(made.get());
  publish_graph(lock, std::move(made));
  return CUDA_SUCCESS;
}

CUresult api::cuGraphNodeFindInClone(CUgraphNode* found, CUgraphNode original, CUgraph clone) {
  if (found == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, clone);
  const Node* node = find_node(lock, original);
  if (graph == nullptr || node == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (const auto& candidate : graph->nodes) {
    if (candidate->original != node) continue;
    *found = handle_of(candidate.get());
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuGraphDestroyNode(CUgraphNode handle) {
  const StreamLock lock(stream_mutex());
  Node* node = find_node(lock, handle);
  if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
  remove_node(lock, *node);
  return CUDA_SUCCESS;
}

CUresult api::cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, std::size_t* count) {
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUgraphNode> found;
  for (const auto& node : graph->nodes) found.push_back(handle_of(node.get()));
  return list(found, nodes, count);
}

CUresult api::cuGraphGetRootNodes(CUgraph handle, CUgraphNode* nodes, std::size_t* count) {
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<CUgraphNode> found;
  for (const auto& node : graph->nodes) {
    if (node->dependencies.empty()) found.push_back(handle_of(node.get()));
  }
  return list(found, nodes, count);
}

CUresult api::cuGraphGetEdges(CUgraph graph, CUgraphNode* from, CUgraphNode* to,
                              std::size_t* count) {
  return edges(graph, from, to, count);
}
CUresult api::cuGraphGetEdges_v2(CUgraph graph, CUgraphNode* from, CUgraphNode* to,
                                 CUgraphEdgeData* data, std::size_t* count) {
  const CUresult result = edges(graph, from, to, count);
  if (result == CUDA_SUCCESS && from != nullptr) no_edge_data(data, count);
  return result;
}
CUresult api::cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode* out, std::size_t* count) {
  return dependencies(node, out, count);
}
CUresult api::cuGraphNodeGetDependencies_v2(CUgraphNode node, CUgraphNode* out,
                                            CUgraphEdgeData* data, std::size_t* count) {
  const CUresult result = dependencies(node, out, count);
  if (result == CUDA_SUCCESS && out != nullptr) no_edge_data(data, count);
  return result;
}
CUresult api::cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode* out, std::size_t* count) {
  return dependents(node, out, count);
}
CUresult api::cuGraphNodeGetDependentNodes_v2(CUgraphNode node, CUgraphNode* out,
                                              CUgraphEdgeData* data, std::size_t* count) {
  const CUresult result = dependents(node, out, count);
  if (result == CUDA_SUCCESS && out != nullptr) no_edge_data(data, count);
  return result;
}
CUresult api::cuGraphAddDependencies(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                     std::size_t count) {
  return change_edges(graph, from, to, count, true);
}
CUresult api::cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode* from,
                                        const CUgraphNode* to, const CUgraphEdgeData*,
                                        std::size_t count) {
  return change_edges(graph, from, to, count, true);
}
CUresult api::cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode* from,
                                        const CUgraphNode* to, std::size_t count) {
  return change_edges(graph, from, to, count, false);
}
CUresult api::cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode* from,
                                           const CUgraphNode* to, const CUgraphEdgeData*,
                                           std::size_t count) {
  return change_edges(graph, from, to, count, false);
}

CUresult api::cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  const StreamLock lock(stream_mutex());
  const Node* node = find_node(lock, handle);
  if (node == nullptr || type == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *type = node->type;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
