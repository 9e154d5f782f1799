// Graphs as data. Everything here is guarded by the stream mutex; a graph
// that is being executed is never changed (executables copy it before a change).
#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "tests/simulator/operations.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {

struct Node {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  Operation operation;
  std::shared_ptr<Graph> child;  // CU_GRAPH_NODE_TYPE_GRAPH: its own copy
  Graph* graph = nullptr;
  std::vector<Node*> dependencies;
  bool enabled = true;
  const Node* original = nullptr;  // in a clone: the node it was copied from
};

struct Graph : std::enable_shared_from_this<Graph> {
  std::vector<std::unique_ptr<Node>> nodes;       // in order of creation
  std::map<CUuserObject, unsigned> user_objects;  // references held
  bool owned_by_node = false;                     // a child graph: not the user's to destroy
  ~Graph();
};

inline CUgraph handle_of(Graph* graph) { return reinterpret_cast<CUgraph>(graph); }
inline CUgraphNode handle_of(Node* node) { return reinterpret_cast<CUgraphNode>(node); }

/// Live graphs and nodes by handle; null when there is none.
std::shared_ptr<Graph> find_graph(const StreamLock&, CUgraph handle);
Node* find_node(const StreamLock&, CUgraphNode handle);

std::shared_ptr<Graph> make_graph(const StreamLock&);
/// Registers the graph's handle with the user (a capture's result).
void publish_graph(const StreamLock&, std::shared_ptr<Graph> graph);
/// Takes the user's hold of it away; false when it isn't the user's.
bool forget_graph(const StreamLock&, CUgraph handle);
void remove_node(const StreamLock&, Node& node);
Node* add_node(const StreamLock&, Graph& graph, CUgraphNodeType type, Operation operation,
               std::vector<Node*> dependencies);
std::shared_ptr<Graph> clone_graph(const StreamLock&, const Graph& graph);
/// Dependencies first; among those that are free, in order of creation.
std::vector<const Node*> in_order(const Graph& graph);

/// The type a captured operation's node has.
CUgraphNodeType type_of(const Operation& operation);

}  // namespace kvshim::simulator
