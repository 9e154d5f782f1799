#include "tests/simulator/graphs.h"

#include <algorithm>
#include <unordered_set>

#include "tests/simulator/capture.h"
#include "tests/simulator/memory.h"
#include "tests/simulator/user_objects.h"

namespace kvshim::simulator {
namespace {

/// Guarded by the stream mutex, but for `nodes`: a graph's last hold may be let
/// go anywhere.
struct Graphs {
  std::unordered_map<CUgraph, std::shared_ptr<Graph>> user;  // the user's to destroy
  std::unordered_map<CUgraph, std::weak_ptr<Graph>> inner;   // children, captures under way
  std::mutex node_mutex;
  std::unordered_set<Node*> nodes;
};

Graphs& graphs() {
  static Graphs* const instance = new Graphs;
  return *instance;
}

}  // namespace

Graph::~Graph() {
  for (const auto& [object, count] : user_objects) release_user_object(object, count);
  for (const auto& node : nodes) {
    {
      const std::lock_guard lock(graphs().node_mutex);
      graphs().nodes.erase(node.get());
    }
    if (const auto* alloc = std::get_if<AllocOperation>(&node->operation)) {
      if (!node->original) free_device(alloc->params.dptr);
    }
  }
}

std::shared_ptr<Graph> find_graph(const StreamLock&, CUgraph handle) {
  if (const auto found = graphs().user.find(handle); found != graphs().user.end()) {
    return found->second;
  }
  const auto inner = graphs().inner.find(handle);
  return inner == graphs().inner.end() ? nullptr : inner->second.lock();
}

Node* find_node(const StreamLock&, CUgraphNode handle) {
  auto* node = reinterpret_cast<Node*>(handle);
  const std::lock_guard nodes_lock(graphs().node_mutex);
  return graphs().nodes.contains(node) ? node : nullptr;
}

std::shared_ptr<Graph> make_graph(const StreamLock&) {
  std::erase_if(graphs().inner, [](const auto& entry) { return entry.second.expired(); });
  auto graph = std::make_shared<Graph>();
  graphs().inner[handle_of(graph.get())] = graph;
  return graph;
}

void publish_graph(const StreamLock&, std::shared_ptr<Graph> graph) {
  CUgraph handle = handle_of(graph.get());
  graphs().inner.erase(handle);
  graphs().user[handle] = std::move(graph);
}

bool forget_graph(const StreamLock&, CUgraph handle) { return graphs().user.erase(handle) == 1; }

Node* add_node(const StreamLock&, Graph& graph, CUgraphNodeType type, Operation operation,
               std::vector<Node*> dependencies) {
  auto node = std::make_unique<Node>();
  node->type = type;
  node->operation = std::move(operation);
  node->graph = &graph;
  node->dependencies = std::move(dependencies);
  Node* result = node.get();
  {
    const std::lock_guard nodes_lock(graphs().node_mutex);
    graphs().nodes.insert(result);
  }
  graph.nodes.push_back(std::move(node));
  return result;
}

void remove_node(const StreamLock&, Node& node) {
  Graph& graph = *node.graph;
  for (const auto& other : graph.nodes) std::erase(other->dependencies, &node);
  {
    const std::lock_guard nodes_lock(graphs().node_mutex);
    graphs().nodes.erase(&node);
  }
  std::erase_if(graph.nodes, [&](const auto& candidate) { return candidate.get() == &node; });
}

std::shared_ptr<Graph> clone_graph(const StreamLock& lock, const Graph& graph) {
  auto clone = make_graph(lock);
  std::unordered_map<const Node*, Node*> copies;
  for (const auto& node : graph.nodes) {
    Node* copy = add_node(lock, *clone, node->type, node->operation, {});
    copy->enabled = node->enabled;
    copy->original = node.get();
    if (node->child != nullptr) {
      copy->child = clone_graph(lock, *node->child);
      copy->child->owned_by_node = true;
    }
    copies[node.get()] = copy;
  }
  clone->user_objects = graph.user_objects;
  for (const auto& [object, count] : graph.user_objects) api::cuUserObjectRetain(object, count);
  for (const auto& node : graph.nodes) {
    for (const Node* before : node->dependencies) {
      copies[node.get()]->dependencies.push_back(copies[before]);
    }
  }
  return clone;
}

std::vector<const Node*> in_order(const Graph& graph) {
  std::vector<const Node*> order;
  std::unordered_map<const Node*, std::size_t> open;  // unfinished dependencies
  std::unordered_map<const Node*, std::vector<const Node*>> followers;
  for (const auto& node : graph.nodes) {
    open[node.get()] = node->dependencies.size();
    for (const Node* before : node->dependencies) followers[before].push_back(node.get());
    if (node->dependencies.empty()) order.push_back(node.get());
  }
  for (std::size_t i = 0; i < order.size(); ++i) {
    for (const Node* after : followers[order[i]]) {
      if (--open[after] == 0) order.push_back(after);
    }
  }
  return order;
}

CUgraphNodeType type_of(const Operation& operation) {
  static constexpr CUgraphNodeType kTypes[] = {
      CU_GRAPH_NODE_TYPE_EMPTY,      CU_GRAPH_NODE_TYPE_KERNEL,
      CU_GRAPH_NODE_TYPE_MEMCPY,     CU_GRAPH_NODE_TYPE_MEMSET,
      CU_GRAPH_NODE_TYPE_HOST,       CU_GRAPH_NODE_TYPE_EVENT_RECORD,
      CU_GRAPH_NODE_TYPE_WAIT_EVENT, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP,
      CU_GRAPH_NODE_TYPE_GRAPH,      CU_GRAPH_NODE_TYPE_MEM_ALLOC,
      CU_GRAPH_NODE_TYPE_MEM_FREE};
  static_assert(std::size(kTypes) == std::variant_size_v<Operation>);
  return kTypes[operation.index()];
}

}  // namespace kvshim::simulator
