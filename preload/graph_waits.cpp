#include "preload/graph_waits.h"

#include <algorithm>
#include <vector>

#include "preload/graph_capture.h"
#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

bool embedded_waits(CUgraphNode node) {
  const auto get_graph = real().cuGraphChildGraphNodeGetGraph;
  CUgraph child = nullptr;
  return get_graph == nullptr || get_graph(node, &child) != CUDA_SUCCESS || graph_waits(child);
}

bool bodies_wait(CUgraphNode node) {
  const std::vector<CUgraph> bodies = conditional_bodies(node);
  return bodies.empty() || std::any_of(bodies.begin(), bodies.end(), graph_waits);
}

bool node_waits(CUgraphNode node) {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  if (real().cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) return true;
  switch (type) {
    case CU_GRAPH_NODE_TYPE_HOST:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
    // Its operations can be replaced in the executable, so that a write becomes a wait.
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
    // The driver may order it after another stream's freeing.
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return true;
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return embedded_waits(node);
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
      return bodies_wait(node);
    case CU_GRAPH_NODE_TYPE_KERNEL:
    case CU_GRAPH_NODE_TYPE_MEMCPY:
    case CU_GRAPH_NODE_TYPE_MEMSET:
    case CU_GRAPH_NODE_TYPE_EMPTY:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return false;
  }
  return true;  // a kind of node younger than this code
}

}  // namespace

bool graph_waits(CUgraph graph) {
  std::size_t count = 0;
  const auto get_nodes = real().cuGraphGetNodes;
  if (get_nodes == nullptr || get_nodes(graph, nullptr, &count) != CUDA_SUCCESS) return true;
  std::vector<CUgraphNode> nodes(count);
  if (count != 0 && get_nodes(graph, nodes.data(), &count) != CUDA_SUCCESS) return true;
  nodes.resize(std::min(count, nodes.size()));
  return std::any_of(nodes.begin(), nodes.end(), node_waits);
}

}  // namespace kvshim::preload
