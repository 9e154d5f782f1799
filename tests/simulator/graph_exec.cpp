// Executable graphs: a copy of the graph that launches share; changes are made
// to a copy of the copy when a launch under way still holds it.
#include <cstring>
#include <unordered_map>

#include "tests/simulator/capture.h"
#include "tests/simulator/copies.h"
#include "tests/simulator/events.h"
#include "tests/simulator/graph_nodes.h"

namespace kvshim::simulator {
namespace {

struct Executable {
  std::shared_ptr<Graph> plan;
  // Place in plan->nodes of each node of the graph it was made from.
  std::unordered_map<CUgraphNode, std::size_t> places;
  cuuint64_t flags = 0;
};

using Executables = std::unordered_map<CUgraphExec, std::unique_ptr<Executable>>;

/// Guarded by the stream mutex.
Executables& executables() {
  static auto* const instance = new Executables;
  return *instance;
}

Executable* find(const StreamLock&, CUgraphExec handle) {
  const auto found = executables().find(handle);
  return found == executables().end() ? nullptr : found->second.get();
}

void take_places(Executable& executable, const Graph& source) {
  executable.places.clear();
  for (std::size_t i = 0; i < source.nodes.size(); ++i) {
    executable.places[handle_of(source.nodes[i].get())] = i;
  }
}

CUresult instantiate(CUgraphExec* out, CUgraph handle, cuuint64_t flags) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (in_order(*graph).size() != graph->nodes.size()) return CUDA_ERROR_INVALID_VALUE;  // a circle
  for (const auto& node : graph->nodes) {
    const auto* fill = std::get_if<FillOperation>(&node->operation);
    if (fill != nullptr && check_fill(fill->params) != CUDA_SUCCESS)
      return CUDA_ERROR_INVALID_VALUE;
  }
  auto made = std::make_unique<Executable>();
  made->plan = clone_graph(lock, *graph);
  made->flags = flags;
  take_places(*made, *graph);
  *out = reinterpret_cast<CUgraphExec>(made.get());
  executables()[*out] = std::move(made);
  return CUDA_SUCCESS;
}

/// The plan, its own to change.
Graph& changeable(const StreamLock& lock, Executable& executable) {
  if (executable.plan.use_count() != 1) executable.plan = clone_graph(lock, *executable.plan);
  return *executable.plan;
}

/// The node of the plan for a node of the original; null when there is none.
Node* plan_node(const StreamLock& lock, Executable& executable, CUgraphNode original) {
  const auto place = executable.places.find(original);
  if (place == executable.places.end()) return nullptr;
  return changeable(lock, executable).nodes[place->second].get();
}

template <class Params>
CUresult set_params(CUgraphExec handle, CUgraphNode node_handle, CUgraphNodeType type,
                    const Params* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Operation operation;
  if (const CUresult bad = read_params(*params, &operation); bad != CUDA_SUCCESS) return bad;
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  if (executable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr || node->type != type) return CUDA_ERROR_INVALID_VALUE;
  node->operation = std::move(operation);
  return CUDA_SUCCESS;
}

template <class Kind>
CUresult set_event(CUgraphExec handle, CUgraphNode node_handle, CUevent event_handle) {
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  auto event = find_event(lock, event_handle);
  if (executable == nullptr || event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr || !std::holds_alternative<Kind>(node->operation)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  node->operation = Kind{std::move(event)};
  return CUDA_SUCCESS;
}

/// Same nodes, same edges, in the order of creation.
CUgraphExecUpdateResult compare(const Graph& plan, const Graph& graph, const Node** where) {
  *where = nullptr;
  if (plan.nodes.size() != graph.nodes.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  std::unordered_map<const Node*, std::size_t> plan_index, graph_index;
  for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
    plan_index[plan.nodes[i].get()] = i;
    graph_index[graph.nodes[i].get()] = i;
  }
  for (std::size_t i = 0; i < plan.nodes.size(); ++i) {
    const Node& ours = *plan.nodes[i];
    const Node& theirs = *graph.nodes[i];
    *where = &theirs;
    if (ours.type != theirs.type) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    if (ours.dependencies.size() != theirs.dependencies.size()) {
      return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    }
    for (std::size_t d = 0; d < ours.dependencies.size(); ++d) {
      if (plan_index[ours.dependencies[d]] != graph_index[theirs.dependencies[d]]) {
        return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
      }
    }
    if (ours.child != nullptr) {
      const Node* inner = nullptr;
      if (const auto result = compare(*ours.child, *theirs.child, &inner);
          result != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
        return result;
      }
    }
  }
  *where = nullptr;
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult update(CUgraphExec handle, CUgraph graph_handle, CUgraphNode* where,
                CUgraphExecUpdateResult* result) {
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  const auto graph = find_graph(lock, graph_handle);
  if (executable == nullptr || graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Node* differs = nullptr;
  *result = compare(*executable->plan, *graph, &differs);
  *where = handle_of(const_cast<Node*>(differs));
  if (*result != CU_GRAPH_EXEC_UPDATE_SUCCESS) return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  executable->plan = clone_graph(lock, *graph);
  // Setters go on taking nodes of the graph it was first made from.
  return CUDA_SUCCESS;
}

CUresult launch(CUgraphExec handle, CUstream stream_handle) {
  await_turn();
  StreamLock lock(stream_mutex());
  await_copies(lock, stream_handle);
  Executable* executable = find(lock, handle);
  const auto stream = find_stream(lock, stream_handle);
  if (executable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr) {
    // Becomes a child graph, as the driver does.
    if (const CUresult dead = check_capture(*stream->capture); dead != CUDA_SUCCESS) return dead;
    const CUresult result = capture_operation(lock, *stream, GraphOperation{});
    if (result == CUDA_SUCCESS) {
      Node& node = *stream->frontier.front();
      node.operation = EmptyOperation{};
      node.child = clone_graph(lock, *executable->plan);
      node.child->owned_by_node = true;
    }
    return result;
  }
  if (stream->legacy) {
    if (const CUresult refused = refuse_legacy_work(lock, *stream); refused != CUDA_SUCCESS) {
      return refused;
    }
  }
  GraphOperation operation;
  operation.graph = executable->plan;
  for (const Node* node : in_order(*executable->plan)) {
    const auto* record = std::get_if<EventRecordOperation>(&node->operation);
    if (record == nullptr) continue;
    operation.records.push_back(std::make_shared<Completion>());
    record->event->recorded = operation.records.back();
    record->event->capture = nullptr;
  }
  queue_work(lock, stream, std::move(operation));
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph,
                                          unsigned long long flags) {
  return instantiate(executable, graph, flags);
}
CUresult api::cuGraphInstantiate_v2(CUgraphExec* executable, CUgraph graph, CUgraphNode* where,
                                    char* log, std::size_t log_bytes) {
  if (where != nullptr) *where = nullptr;
  if (log != nullptr && log_bytes != 0) *log = '\0';
  return instantiate(executable, graph, 0);
}
CUresult api::cuGraphInstantiate(CUgraphExec* executable, CUgraph graph, CUgraphNode* where,
                                 char* log, std::size_t log_bytes) {
  return api::cuGraphInstantiate_v2(executable, graph, where, log, log_bytes);
}
CUresult api::cuGraphInstantiateWithParams(CUgraphExec* executable, CUgraph graph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  params->hErrNode_out = nullptr;
  const CUresult result = instantiate(executable, graph, params->flags);
  params->result_out =
      result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  return result;
}
CUresult api::cuGraphExecDestroy(CUgraphExec handle) {
  std::unique_ptr<Executable> last;
  const StreamLock lock(stream_mutex());
  const auto found = executables().find(handle);
  if (found == executables().end()) return CUDA_ERROR_INVALID_VALUE;
  last = std::move(found->second);  // launches under way hold the plan
  executables().erase(found);
  return CUDA_SUCCESS;
}
CUresult api::cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t* flags) {
  const StreamLock lock(stream_mutex());
  const Executable* executable = find(lock, handle);
  if (executable == nullptr || flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = executable->flags;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  return launch(executable, stream);
}
CUresult api::cuGraphUpload(CUgraphExec handle, CUstream stream) {
  const StreamLock lock(stream_mutex());
  if (find(lock, handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return find_stream(lock, stream) == nullptr ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

CUresult api::cuGraphExecUpdate_v2(CUgraphExec executable, CUgraph graph,
                                   CUgraphExecUpdateResultInfo* info) {
  if (info == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *info = CUgraphExecUpdateResultInfo{};
  return update(executable, graph, &info->errorNode, &info->result);
}
CUresult api::cuGraphExecUpdate(CUgraphExec executable, CUgraph graph, CUgraphNode* where,
                                CUgraphExecUpdateResult* result) {
  if (where == nullptr || result == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return update(executable, graph, where, result);
}

CUresult api::cuGraphExecKernelNodeSetParams_v2(CUgraphExec executable, CUgraphNode node,
                                                const CUDA_KERNEL_NODE_PARAMS* params) {
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_KERNEL, params);
}
CUresult api::cuGraphExecKernelNodeSetParams(CUgraphExec executable, CUgraphNode node,
                                             const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUDA_KERNEL_NODE_PARAMS newer{};
  static_assert(sizeof(CUDA_KERNEL_NODE_PARAMS_v1) <= sizeof newer);
  std::memcpy(&newer, params, sizeof *params);  // v2 only appends members
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_KERNEL, &newer);
}
CUresult api::cuGraphExecMemcpyNodeSetParams(CUgraphExec executable, CUgraphNode node,
                                             const CUDA_MEMCPY3D* params, CUcontext) {
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_MEMCPY, params);
}
CUresult api::cuGraphExecMemsetNodeSetParams(CUgraphExec executable, CUgraphNode node,
                                             const CUDA_MEMSET_NODE_PARAMS* params, CUcontext) {
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_MEMSET, params);
}
CUresult api::cuGraphExecHostNodeSetParams(CUgraphExec executable, CUgraphNode node,
                                           const CUDA_HOST_NODE_PARAMS* params) {
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_HOST, params);
}
CUresult api::cuGraphExecBatchMemOpNodeSetParams(CUgraphExec executable, CUgraphNode node,
                                                 const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  return set_params(executable, node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, params);
}
CUresult api::cuGraphExecEventRecordNodeSetEvent(CUgraphExec executable, CUgraphNode node,
                                                 CUevent event) {
  return set_event<EventRecordOperation>(executable, node, event);
}
CUresult api::cuGraphExecEventWaitNodeSetEvent(CUgraphExec executable, CUgraphNode node,
                                               CUevent event) {
  return set_event<EventWaitOperation>(executable, node, event);
}
CUresult api::cuGraphExecChildGraphNodeSetParams(CUgraphExec handle, CUgraphNode node_handle,
                                                 CUgraph child_handle) {
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  const auto child = find_graph(lock, child_handle);
  if (executable == nullptr || child == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr || node->child == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Node* differs = nullptr;
  if (compare(*node->child, *child, &differs) != CU_GRAPH_EXEC_UPDATE_SUCCESS) {
    return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  }
  node->child = clone_graph(lock, *child);
  return CUDA_SUCCESS;
}
CUresult api::cuGraphExecNodeSetParams(CUgraphExec handle, CUgraphNode node_handle,
                                       CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  if (executable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr || node->type != params->type || node->child != nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return read_params(lock, *params, &node->operation);
}
CUresult api::cuGraphNodeSetEnabled(CUgraphExec handle, CUgraphNode node_handle, unsigned enabled) {
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  if (executable == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr ||
      (node->type != CU_GRAPH_NODE_TYPE_KERNEL && node->type != CU_GRAPH_NODE_TYPE_MEMSET &&
       node->type != CU_GRAPH_NODE_TYPE_MEMCPY)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  node->enabled = enabled != 0;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphNodeGetEnabled(CUgraphExec handle, CUgraphNode node_handle,
                                    unsigned* enabled) {
  const StreamLock lock(stream_mutex());
  Executable* executable = find(lock, handle);
  if (executable == nullptr || enabled == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Node* node = plan_node(lock, *executable, node_handle);
  if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *enabled = node->enabled ? 1 : 0;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
