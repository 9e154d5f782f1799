// Executable graphs: made, updated, launched, destroyed.
#include "preload/graph_capture.h"
#include "preload/graph_exec.h"
#include "preload/graph_node_params.h"
#include "preload/graph_reach.h"
#include "preload/hooks.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

CUresult hook_cuGraphInstantiate(CUgraphExec* exec, CUgraph graph, CUgraphNode* error_node,
                                 char* log, size_t log_bytes) noexcept {
  return instantiate_graph(graph, 0, exec, [&] {
    return real().cuGraphInstantiate(exec, graph, error_node, log, log_bytes);
  });
}

CUresult hook_cuGraphInstantiate_v2(CUgraphExec* exec, CUgraph graph, CUgraphNode* error_node,
                                    char* log, size_t log_bytes) noexcept {
  return instantiate_graph(graph, 0, exec, [&] {
    return real().cuGraphInstantiate_v2(exec, graph, error_node, log, log_bytes);
  });
}

CUresult hook_cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph,
                                          unsigned long long flags) noexcept {
  return instantiate_graph(graph, flags, exec,
                           [&] { return real().cuGraphInstantiateWithFlags(exec, graph, flags); });
}

CUresult hook_cuGraphInstantiateWithParams(CUgraphExec* exec, CUgraph graph,
                                           CUDA_GRAPH_INSTANTIATE_PARAMS* params) noexcept {
  return instantiate_graph(graph, params != nullptr ? params->flags : 0, exec, [&] {
    return real().cuGraphInstantiateWithParams(exec, graph, params);
  });
}

CUresult hook_cuGraphInstantiateWithParams_ptsz(CUgraphExec* exec, CUgraph graph,
                                                CUDA_GRAPH_INSTANTIATE_PARAMS* params) noexcept {
  return instantiate_graph(graph, params != nullptr ? params->flags : 0, exec, [&] {
    return real().cuGraphInstantiateWithParams_ptsz(exec, graph, params);
  });
}

CUresult hook_cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode* error_node,
                                CUgraphExecUpdateResult* update_result) noexcept {
  return update_exec(exec, graph, [&] {
    return real().cuGraphExecUpdate(exec, graph, error_node, update_result);
  });
}

CUresult hook_cuGraphExecUpdate_v2(CUgraphExec exec, CUgraph graph,
                                   CUgraphExecUpdateResultInfo* info) noexcept {
  return update_exec(exec, graph, [&] { return real().cuGraphExecUpdate_v2(exec, graph, info); });
}

CUresult hook_cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                             const CUDA_KERNEL_NODE_PARAMS_v1* params) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_kernel(reach, widened(*params));
  };
  return change_exec(exec, node, false, add,
                     [&] { return real().cuGraphExecKernelNodeSetParams(exec, node, params); });
}

CUresult hook_cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                                const CUDA_KERNEL_NODE_PARAMS* params) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_kernel(reach, *params);
  };
  return change_exec(exec, node, false, add,
                     [&] { return real().cuGraphExecKernelNodeSetParams_v2(exec, node, params); });
}

CUresult hook_cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                             const CUDA_MEMCPY3D* params, CUcontext ctx) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_memcpy(reach, *params);
  };
  return change_exec(exec, node, false, add, [&] {
    return real().cuGraphExecMemcpyNodeSetParams(exec, node, params, ctx);
  });
}

CUresult hook_cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                             const CUDA_MEMSET_NODE_PARAMS* params,
                                             CUcontext ctx) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_memset(reach, *params);
  };
  return change_exec(exec, node, false, add, [&] {
    return real().cuGraphExecMemsetNodeSetParams(exec, node, params, ctx);
  });
}

CUresult hook_cuGraphExecBatchMemOpNodeSetParams(
    CUgraphExec exec, CUgraphNode node, const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_memory_operations(reach, params->paramArray, params->count);
  };
  return change_exec(exec, node, false, add,
                     [&] { return real().cuGraphExecBatchMemOpNodeSetParams(exec, node, params); });
}

CUresult hook_cuGraphExecChildGraphNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                                 CUgraph child) noexcept {
  const auto add = [&](GraphReach* reach) { add_graph(reach, child); };
  return change_exec(exec, node, graph_is_guarded(child), add,
                     [&] { return real().cuGraphExecChildGraphNodeSetParams(exec, node, child); });
}

CUresult hook_cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                       CUgraphNodeParams* params) noexcept {
  const auto add = [&](GraphReach* reach) {
    if (params != nullptr) add_params(reach, *params);
  };
  const bool guarded = params != nullptr && params->type == CU_GRAPH_NODE_TYPE_GRAPH &&
                       graph_is_guarded(params->graph.graph);
  return change_exec(exec, node, guarded, add,
                     [&] { return real().cuGraphExecNodeSetParams(exec, node, params); });
}

CUresult hook_cuGraphNodeSetEnabled(CUgraphExec exec, CUgraphNode node,
                                    unsigned int enabled) noexcept {
  const auto submit = [&] { return real().cuGraphNodeSetEnabled(exec, node, enabled); };
  if (enabled != 0) return submit();
  return change_exec(
      exec, node, true, [](GraphReach*) {}, submit);
}

CUresult hook_cuGraphLaunch(CUgraphExec exec, CUstream stream) noexcept {
  return launch_exec({stream, StreamFlavor::kLegacy}, exec,
                     [&] { return real().cuGraphLaunch(exec, stream); });
}

CUresult hook_cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) noexcept {
  return launch_exec({stream, StreamFlavor::kPerThread}, exec,
                     [&] { return real().cuGraphLaunch_ptsz(exec, stream); });
}

CUresult hook_cuGraphExecDestroy(CUgraphExec exec) noexcept {
  const CUresult result = real().cuGraphExecDestroy(exec);
  if (result == CUDA_SUCCESS) exec_destroyed(exec);
  return result;
}

}  // namespace kvshim::preload
