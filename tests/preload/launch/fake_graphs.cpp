#include "tests/preload/launch/fake_graphs.h"

#include <memory>
#include <utility>
#include <vector>

namespace kvshim::preload::testing {

namespace {

std::unique_ptr<FakeNode> copy_of(const FakeNode& node);

void copy_nodes(const FakeGraph& from, FakeGraph* to) {
  for (const auto& node : from.nodes) to->nodes.push_back(copy_of(*node));
}

void set_kernel(FakeNode* node, const CUDA_KERNEL_NODE_PARAMS_v2& params) {
  node->type = CU_GRAPH_NODE_TYPE_KERNEL;
  const CUDA_KERNEL_NODE_PARAMS_v2 from = params;
  node->kernel = from;
  const void* handle = from.func != nullptr ? static_cast<const void*>(from.func) : from.kern;
  const FakeFunction& function = driver().functions.at(handle);
  if (function.is_kernel) {
    // As the driver shows it: `kern` set, and something in `func` that is neither.
    node->kernel.kern = static_cast<CUkernel>(const_cast<void*>(handle));
    node->kernel.func = reinterpret_cast<CUfunction>(std::uintptr_t{0xdead0});
  }
  if (from.kernelParams != nullptr) {
    std::vector<std::vector<unsigned char>> bytes;
    for (std::size_t i = 0; i < function.params.size(); ++i) {
      const auto* at = static_cast<const unsigned char*>(from.kernelParams[i]);
      bytes.emplace_back(at, at + function.params[i].size);
    }
    node->bytes = std::move(bytes);
    node->pointers.clear();
    for (auto& param : node->bytes) node->pointers.push_back(param.data());
    node->kernel.kernelParams = node->pointers.data();
  } else if (from.extra != nullptr) {
    const auto* data = static_cast<const unsigned char*>(from.extra[1]);
    node->buffer_bytes = *static_cast<std::size_t*>(from.extra[3]);
    node->buffer.assign(data, data + node->buffer_bytes);
    node->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    node->extra[1] = node->buffer.data();
    node->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    node->extra[3] = &node->buffer_bytes;
    node->extra[4] = CU_LAUNCH_PARAM_END;
    node->kernel.extra = node->extra;
  }
}

std::unique_ptr<FakeNode> copy_of(const FakeNode& node) {
  auto copy = std::make_unique<FakeNode>();
  copy->type = node.type;
  copy->readable = node.readable;
  copy->copy = node.copy;
  copy->fill = node.fill;
  copy->operations = node.operations;
  copy->device_updatable = node.device_updatable;
  if (node.type == CU_GRAPH_NODE_TYPE_KERNEL) {
    CUDA_KERNEL_NODE_PARAMS_v2 params = node.kernel;
    if (params.kern != nullptr) params.func = nullptr;
    set_kernel(copy.get(), params);
  }
  if (node.child) {
    copy->child = std::make_unique<FakeGraph>();
    copy_nodes(*node.child, copy->child.get());
  }
  return copy;
}

FakeNode* add_node(FakeGraph* graph, CUgraphNodeType type) {
  graph->nodes.push_back(std::make_unique<FakeNode>());
  graph->nodes.back()->type = type;
  return graph->nodes.back().get();
}

template <class Out>
CUresult instantiate(Out* exec, CUgraph graph) {
  if (driver().next_result != CUDA_SUCCESS) return driver().next_result;
  auto* made = new FakeExec;
  copy_nodes(*fake(graph), &made->graph);
  driver().executables.insert(made);
  *exec = reinterpret_cast<CUgraphExec>(made);
  return CUDA_SUCCESS;
}

void fill_graphs(RealDriver& t) {
  t.cuGraphAddKernelNode_v2 = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*, std::size_t,
                                 const CUDA_KERNEL_NODE_PARAMS* params) {
    *node = reinterpret_cast<CUgraphNode>(add_kernel_copy(fake(graph), *params));
    return CUDA_SUCCESS;
  };
  t.cuGraphAddMemcpyNode = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*, std::size_t,
                              const CUDA_MEMCPY3D* copy, CUcontext) {
    FakeNode* made = add_node(fake(graph), CU_GRAPH_NODE_TYPE_MEMCPY);
    made->copy = *copy;
    *node = reinterpret_cast<CUgraphNode>(made);
    return CUDA_SUCCESS;
  };
  t.cuGraphAddMemsetNode = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*, std::size_t,
                              const CUDA_MEMSET_NODE_PARAMS* fill, CUcontext) {
    FakeNode* made = add_node(fake(graph), CU_GRAPH_NODE_TYPE_MEMSET);
    made->fill = *fill;
    *node = reinterpret_cast<CUgraphNode>(made);
    return CUDA_SUCCESS;
  };
  t.cuGraphAddBatchMemOpNode = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*, std::size_t,
                                  const CUDA_BATCH_MEM_OP_NODE_PARAMS* batch) {
    FakeNode* made = add_node(fake(graph), CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    made->operations.assign(batch->paramArray, batch->paramArray + batch->count);
    *node = reinterpret_cast<CUgraphNode>(made);
    return CUDA_SUCCESS;
  };
  t.cuGraphAddChildGraphNode = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*, std::size_t,
                                  CUgraph child) {
    FakeNode* made = add_node(fake(graph), CU_GRAPH_NODE_TYPE_GRAPH);
    made->child = std::make_unique<FakeGraph>();
    copy_nodes(*fake(child), made->child.get());
    *node = reinterpret_cast<CUgraphNode>(made);
    return CUDA_SUCCESS;
  };
  t.cuGraphAddNode_v2 = [](CUgraphNode* node, CUgraph graph, const CUgraphNode*,
                           const CUgraphEdgeData*, std::size_t, CUgraphNodeParams* params) {
    FakeNode* made = add_node(fake(graph), params->type);
    if (params->type == CU_GRAPH_NODE_TYPE_CONDITIONAL) {
      static CUgraph bodies[2];
      for (unsigned i = 0; i < params->conditional.size; ++i) bodies[i] = new_graph();
      params->conditional.phGraph_out = bodies;
    }
    *node = reinterpret_cast<CUgraphNode>(made);
    return CUDA_SUCCESS;
  };
  t.cuGraphKernelNodeSetParams_v2 = [](CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* params) {
    set_kernel(fake(node), *params);
    return CUDA_SUCCESS;
  };
  t.cuGraphDestroyNode = [](CUgraphNode) { return CUDA_SUCCESS; };
  t.cuGraphGetNodes = [](CUgraph graph, CUgraphNode* nodes, std::size_t* count) {
    const FakeGraph& from = *fake(graph);
    if (nodes == nullptr) {
      *count = from.nodes.size();
      return CUDA_SUCCESS;
    }
    for (std::size_t i = 0; i < *count && i < from.nodes.size(); ++i) {
      nodes[i] = reinterpret_cast<CUgraphNode>(from.nodes[i].get());
    }
    return CUDA_SUCCESS;
  };
  t.cuGraphNodeGetType = [](CUgraphNode node, CUgraphNodeType* type) {
    *type = fake(node)->type;
    return CUDA_SUCCESS;
  };
  t.cuGraphKernelNodeGetParams_v2 = [](CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* params) {
    if (!fake(node)->readable) return CUDA_ERROR_INVALID_VALUE;
    *params = fake(node)->kernel;
    return CUDA_SUCCESS;
  };
  t.cuGraphKernelNodeGetAttribute = [](CUgraphNode node, CUkernelNodeAttrID id,
                                       CUkernelNodeAttrValue* value) {
    if (id == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE) {
      value->deviceUpdatableKernelNode.deviceUpdatable = fake(node)->device_updatable;
    }
    return CUDA_SUCCESS;
  };
  t.cuGraphMemcpyNodeGetParams = [](CUgraphNode node, CUDA_MEMCPY3D* copy) {
    if (!fake(node)->readable) return CUDA_ERROR_INVALID_VALUE;
    *copy = fake(node)->copy;
    return CUDA_SUCCESS;
  };
  t.cuGraphMemsetNodeGetParams = [](CUgraphNode node, CUDA_MEMSET_NODE_PARAMS* fill) {
    *fill = fake(node)->fill;
    return CUDA_SUCCESS;
  };
  t.cuGraphBatchMemOpNodeGetParams = [](CUgraphNode node, CUDA_BATCH_MEM_OP_NODE_PARAMS* batch) {
    batch->paramArray = fake(node)->operations.data();
    batch->count = static_cast<unsigned>(fake(node)->operations.size());
    return CUDA_SUCCESS;
  };
  t.cuGraphChildGraphNodeGetGraph = [](CUgraphNode node, CUgraph* graph) {
    *graph = reinterpret_cast<CUgraph>(fake(node)->child.get());
    return CUDA_SUCCESS;
  };
  t.cuGraphClone = [](CUgraph* clone, CUgraph original) {
    *clone = new_graph();
    copy_nodes(*fake(original), fake(*clone));
    return CUDA_SUCCESS;
  };
  t.cuGraphDestroy = [](CUgraph graph) {
    driver().graphs.erase(fake(graph));
    delete fake(graph);
    return CUDA_SUCCESS;
  };
}

void fill_executables(RealDriver& t) {
  t.cuGraphInstantiate = [](CUgraphExec* exec, CUgraph graph, CUgraphNode*, char*, std::size_t) {
    return instantiate(exec, graph);
  };
  t.cuGraphInstantiate_v2 = [](CUgraphExec* exec, CUgraph graph, CUgraphNode*, char*, std::size_t) {
    return instantiate(exec, graph);
  };
  t.cuGraphInstantiateWithFlags = [](CUgraphExec* exec, CUgraph graph, unsigned long long) {
    return instantiate(exec, graph);
  };
  t.cuGraphInstantiateWithParams = [](CUgraphExec* exec, CUgraph graph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS*) {
    return instantiate(exec, graph);
  };
  t.cuGraphExecUpdate_v2 = [](CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo*) {
    if (driver().next_result != CUDA_SUCCESS) return driver().next_result;
    auto* updated = reinterpret_cast<FakeExec*>(exec);
    updated->graph.nodes.clear();
    copy_nodes(*fake(graph), &updated->graph);
    return CUDA_SUCCESS;
  };
  t.cuGraphExecKernelNodeSetParams_v2 =
      [](CUgraphExec, CUgraphNode, const CUDA_KERNEL_NODE_PARAMS*) { return driver().next_result; };
  t.cuGraphExecMemcpyNodeSetParams = [](CUgraphExec, CUgraphNode, const CUDA_MEMCPY3D*, CUcontext) {
    return driver().next_result;
  };
  t.cuGraphExecChildGraphNodeSetParams = [](CUgraphExec, CUgraphNode, CUgraph) {
    return driver().next_result;
  };
  t.cuGraphExecNodeSetParams = [](CUgraphExec, CUgraphNode, CUgraphNodeParams*) {
    return driver().next_result;
  };
  t.cuGraphLaunch = [](CUgraphExec exec, CUstream stream) {
    driver().launches.push_back({"cuGraphLaunch", exec, stream});
    const auto capture = driver().captures.find(stream);
    if (capture != driver().captures.end()) {
      FakeNode* node = add_node(capture->second.graph, CU_GRAPH_NODE_TYPE_GRAPH);
      node->child = std::make_unique<FakeGraph>();
      copy_nodes(reinterpret_cast<FakeExec*>(exec)->graph, node->child.get());
    }
    return CUDA_SUCCESS;
  };
  t.cuGraphExecDestroy = [](CUgraphExec exec) {
    driver().executables.erase(reinterpret_cast<FakeExec*>(exec));
    delete reinterpret_cast<FakeExec*>(exec);
    return CUDA_SUCCESS;
  };
}

}  // namespace

CUgraph new_graph() {
  auto* graph = new FakeGraph;
  driver().graphs.insert(graph);
  return reinterpret_cast<CUgraph>(graph);
}

FakeNode* add_kernel_copy(FakeGraph* graph, const CUDA_KERNEL_NODE_PARAMS_v2& params) {
  FakeNode* node = add_node(graph, CU_GRAPH_NODE_TYPE_KERNEL);
  set_kernel(node, params);
  return node;
}

void fill_graph_functions(RealDriver& table) {
  fill_graphs(table);
  fill_executables(table);
}

}  // namespace kvshim::preload::testing
