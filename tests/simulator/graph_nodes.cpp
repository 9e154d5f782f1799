#include "tests/simulator/graph_nodes.h"

#include "tests/simulator/copies.h"
#include "tests/simulator/events.h"
#include "tests/simulator/launches.h"
#include "tests/simulator/memory.h"

namespace kvshim::simulator {
namespace {

CUresult read_dependencies(const StreamLock& lock, const Graph& graph, const CUgraphNode* handles,
                           std::size_t count, std::vector<Node*>* nodes) {
  if (count != 0 && handles == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) {
    Node* node = find_node(lock, handles[i]);
    if (node == nullptr || node->graph != &graph) return CUDA_ERROR_INVALID_VALUE;
    nodes->push_back(node);
  }
  return CUDA_SUCCESS;
}

CUresult add(CUgraphNode* out, CUgraph graph_handle, const CUgraphNode* after, std::size_t count,
             Operation operation) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, graph_handle);
  if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> nodes;
  if (const CUresult bad = read_dependencies(lock, *graph, after, count, &nodes);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  const CUgraphNodeType type = type_of(operation);
  *out = handle_of(add_node(lock, *graph, type, std::move(operation), std::move(nodes)));
  return CUDA_SUCCESS;
}

template <class Params>
CUresult add_from(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, std::size_t count,
                  const Params* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Operation operation;
  if (const CUresult bad = read_params(*params, &operation); bad != CUDA_SUCCESS) return bad;
  return add(out, graph, after, count, std::move(operation));
}

CUresult add_child(CUgraphNode* out, CUgraph graph_handle, const CUgraphNode* after,
                   std::size_t count, CUgraph child_handle) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, graph_handle);
  const auto child = find_graph(lock, child_handle);
  if (graph == nullptr || child == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> nodes;
  if (const CUresult bad = read_dependencies(lock, *graph, after, count, &nodes);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  Node* node = add_node(lock, *graph, CU_GRAPH_NODE_TYPE_GRAPH, EmptyOperation{}, std::move(nodes));
  node->child = clone_graph(lock, *child);
  node->child->owned_by_node = true;
  *out = handle_of(node);
  return CUDA_SUCCESS;
}

template <class Kind>
CUresult add_event(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, std::size_t count,
                   CUevent handle) {
  std::shared_ptr<Event> event;
  {
    const StreamLock lock(stream_mutex());
    event = find_event(lock, handle);
  }
  if (event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, graph, after, count, Kind{std::move(event)});
}

CUresult add_generic(CUgraphNode* out, CUgraph graph, const CUgraphNode* after, std::size_t count,
                     CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (params->type == CU_GRAPH_NODE_TYPE_GRAPH) {
    return add_child(out, graph, after, count, params->graph.graph);
  }
  Operation operation;
  {
    const StreamLock lock(stream_mutex());
    if (const CUresult bad = read_params(lock, *params, &operation); bad != CUDA_SUCCESS)
      return bad;
  }
  if (auto* alloc = std::get_if<AllocOperation>(&operation)) {
    if (const CUresult bad =
            allocate_for_graph(current_context(), alloc->params.bytesize, &alloc->params.dptr);
        bad != CUDA_SUCCESS) {
      return bad;
    }
    params->alloc.dptr = alloc->params.dptr;
  }
  return add(out, graph, after, count, std::move(operation));
}

}  // namespace

CUDA_KERNEL_NODE_PARAMS to_v2(const CUDA_KERNEL_NODE_PARAMS_v1& old) {
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = old.func;
  params.gridDimX = old.gridDimX;
  params.gridDimY = old.gridDimY;
  params.gridDimZ = old.gridDimZ;
  params.blockDimX = old.blockDimX;
  params.blockDimY = old.blockDimY;
  params.blockDimZ = old.blockDimZ;
  params.sharedMemBytes = old.sharedMemBytes;
  params.kernelParams = old.kernelParams;
  params.extra = old.extra;
  return params;
}

CUresult read_params(const CUDA_KERNEL_NODE_PARAMS& params, Operation* operation) {
  const unsigned grid[] = {params.gridDimX, params.gridDimY, params.gridDimZ};
  const unsigned block[] = {params.blockDimX, params.blockDimY, params.blockDimZ};
  CUfunction function =
      params.func != nullptr ? params.func : reinterpret_cast<CUfunction>(params.kern);
  KernelOperation kernel;
  if (const CUresult bad = describe_launch(function, grid, block, params.sharedMemBytes,
                                           params.kernelParams, params.extra, &kernel);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  *operation = std::move(kernel);
  return CUDA_SUCCESS;
}

CUresult read_params(const CUDA_MEMCPY3D& params, Operation* operation) {
  CopyOperation copy;
  if (const CUresult bad = describe_copy(params, &copy); bad != CUDA_SUCCESS) return bad;
  *operation = std::move(copy);
  return CUDA_SUCCESS;
}

CUresult read_params(const CUDA_MEMSET_NODE_PARAMS& params, Operation* operation) {
  if (const CUresult bad = check_fill(params); bad != CUDA_SUCCESS) return bad;
  *operation = FillOperation{params};
  return CUDA_SUCCESS;
}

CUresult read_params(const CUDA_HOST_NODE_PARAMS& params, Operation* operation) {
  if (params.fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *operation = HostOperation{params};
  return CUDA_SUCCESS;
}

CUresult read_params(const CUDA_BATCH_MEM_OP_NODE_PARAMS& params, Operation* operation) {
  if (params.count == 0 || params.paramArray == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *operation = MemoryOperations{{params.paramArray, params.paramArray + params.count}};
  return CUDA_SUCCESS;
}

CUresult read_params(const StreamLock& lock, const CUgraphNodeParams& params,
                     Operation* operation) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: {
      CUDA_KERNEL_NODE_PARAMS kernel{};
      kernel.func = params.kernel.func;
      kernel.kern = params.kernel.kern;
      kernel.gridDimX = params.kernel.gridDimX;
      kernel.gridDimY = params.kernel.gridDimY;
      kernel.gridDimZ = params.kernel.gridDimZ;
      kernel.blockDimX = params.kernel.blockDimX;
      kernel.blockDimY = params.kernel.blockDimY;
      kernel.blockDimZ = params.kernel.blockDimZ;
      kernel.sharedMemBytes = params.kernel.sharedMemBytes;
      kernel.kernelParams = params.kernel.kernelParams;
      kernel.extra = params.kernel.extra;
      return read_params(kernel, operation);
    }
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return read_params(params.memcpy.copyParams, operation);
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      CUDA_MEMSET_NODE_PARAMS fill{};
      fill.dst = params.memset.dst;
      fill.pitch = params.memset.pitch;
      fill.value = params.memset.value;
      fill.elementSize = params.memset.elementSize;
      fill.width = params.memset.width;
      fill.height = params.memset.height;
      return read_params(fill, operation);
    }
    case CU_GRAPH_NODE_TYPE_HOST:
      return read_params(CUDA_HOST_NODE_PARAMS{params.host.fn, params.host.userData}, operation);
    case CU_GRAPH_NODE_TYPE_EMPTY:
      *operation = EmptyOperation{};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT: {
      auto event = find_event(lock, params.eventRecord.event);  // one layout
      if (event == nullptr) return CUDA_ERROR_INVALID_VALUE;
      if (params.type == CU_GRAPH_NODE_TYPE_EVENT_RECORD) {
        *operation = EventRecordOperation{std::move(event)};
      } else {
        *operation = EventWaitOperation{std::move(event)};
      }
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      CUDA_BATCH_MEM_OP_NODE_PARAMS batch{};
      batch.count = params.memOp.count;
      batch.paramArray = params.memOp.paramArray;
      return read_params(batch, operation);
    }
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
      AllocOperation alloc;
      alloc.params.poolProps = params.alloc.poolProps;
      alloc.params.bytesize = params.alloc.bytesize;
      *operation = alloc;
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      *operation = FreeOperation{params.free.dptr, true};
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult api::cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                      std::size_t count, const CUDA_KERNEL_NODE_PARAMS* params) {
  return add_from(out, graph, after, count, params);
}
CUresult api::cuGraphAddKernelNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                   std::size_t count, const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS converted = to_v2(*params);
  return add_from(out, graph, after, count, &converted);
}
CUresult api::cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                   std::size_t count, const CUDA_MEMCPY3D* params, CUcontext) {
  return add_from(out, graph, after, count, params);
}
CUresult api::cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                   std::size_t count, const CUDA_MEMSET_NODE_PARAMS* params,
                                   CUcontext) {
  return add_from(out, graph, after, count, params);
}
CUresult api::cuGraphAddHostNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                 std::size_t count, const CUDA_HOST_NODE_PARAMS* params) {
  return add_from(out, graph, after, count, params);
}
CUresult api::cuGraphAddBatchMemOpNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                       std::size_t count,
                                       const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  return add_from(out, graph, after, count, params);
}
CUresult api::cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                  std::size_t count) {
  return add(out, graph, after, count, EmptyOperation{});
}
CUresult api::cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                       std::size_t count, CUgraph child) {
  return add_child(out, graph, after, count, child);
}
CUresult api::cuGraphAddEventRecordNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                        std::size_t count, CUevent event) {
  return add_event<EventRecordOperation>(out, graph, after, count, event);
}
CUresult api::cuGraphAddEventWaitNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                      std::size_t count, CUevent event) {
  return add_event<EventWaitOperation>(out, graph, after, count, event);
}
CUresult api::cuGraphAddMemAllocNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                     std::size_t count, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  if (params == nullptr || params->bytesize == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult bad = allocate_for_graph(current_context(), params->bytesize, &params->dptr);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  return add(out, graph, after, count, AllocOperation{*params});
}
CUresult api::cuGraphAddMemFreeNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                    std::size_t count, CUdeviceptr address) {
  return add(out, graph, after, count, FreeOperation{address, true});
}
CUresult api::cuGraphAddNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                             std::size_t count, CUgraphNodeParams* params) {
  return add_generic(out, graph, after, count, params);
}
CUresult api::cuGraphAddNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* after,
                                const CUgraphEdgeData*, std::size_t count,
                                CUgraphNodeParams* params) {
  return add_generic(out, graph, after, count, params);
}

}  // namespace kvshim::simulator
