// What a node's parameters are, and changing them.
#include "tests/simulator/events.h"
#include "tests/simulator/graph_nodes.h"

namespace kvshim::simulator {
namespace {

template <class Params>
CUresult set_from(CUgraphNode handle, CUgraphNodeType type, const Params* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Operation operation;
  if (const CUresult bad = read_params(*params, &operation); bad != CUDA_SUCCESS) return bad;
  const StreamLock lock(stream_mutex());
  Node* node = find_node(lock, handle);
  if (node == nullptr || node->type != type) return CUDA_ERROR_INVALID_VALUE;
  node->operation = std::move(operation);
  return CUDA_SUCCESS;
}

/// The node's operation if it is of that kind; the lock stays with the caller.
template <class Kind>
const Kind* operation_of(const StreamLock& lock, CUgraphNode handle) {
  const Node* node = find_node(lock, handle);
  return node == nullptr ? nullptr : std::get_if<Kind>(&node->operation);
}

template <class Kind>
CUresult get_event(CUgraphNode node, CUevent* out) {
  const StreamLock lock(stream_mutex());
  const auto* operation = operation_of<Kind>(lock, node);
  if (operation == nullptr || out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUevent>(operation->event.get());
  return CUDA_SUCCESS;
}

template <class Kind>
CUresult set_event(CUgraphNode handle, CUevent event_handle) {
  const StreamLock lock(stream_mutex());
  Node* node = find_node(lock, handle);
  auto event = find_event(lock, event_handle);
  if (node == nullptr || event == nullptr || !std::holds_alternative<Kind>(node->operation)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  node->operation = Kind{std::move(event)};
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* params) {
  const StreamLock lock(stream_mutex());
  const auto* kernel = operation_of<KernelOperation>(lock, node);
  if (kernel == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = CUDA_KERNEL_NODE_PARAMS{};
  // Measured: launched as a CUkernel, `kern` is it and `func` is the function
  // behind it.
  params->kern = kernel->given_kernel;
  params->func = kernel->given_function != nullptr
                     ? kernel->given_function
                     : reinterpret_cast<CUfunction>(const_cast<Function*>(kernel->function));
  params->gridDimX = kernel->grid[0];
  params->gridDimY = kernel->grid[1];
  params->gridDimZ = kernel->grid[2];
  params->blockDimX = kernel->block[0];
  params->blockDimY = kernel->block[1];
  params->blockDimZ = kernel->block[2];
  params->sharedMemBytes = kernel->shared_bytes;
  if (kernel->params->from_extra) {
    params->extra = kernel->params->extra;
  } else {
    params->kernelParams = kernel->params->pointers.data();
  }
  return CUDA_SUCCESS;
}
CUresult api::cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1* params) {
  CUDA_KERNEL_NODE_PARAMS newer{};
  const CUresult result = api::cuGraphKernelNodeGetParams_v2(node, &newer);
  if (result != CUDA_SUCCESS) return result;
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = {newer.func,         newer.gridDimX,  newer.gridDimY,  newer.gridDimZ,
             newer.blockDimX,    newer.blockDimY, newer.blockDimZ, newer.sharedMemBytes,
             newer.kernelParams, newer.extra};
  return CUDA_SUCCESS;
}
CUresult api::cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D* params) {
  const StreamLock lock(stream_mutex());
  const auto* copy = operation_of<CopyOperation>(lock, node);
  if (copy == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = copy->as_given;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS* params) {
  const StreamLock lock(stream_mutex());
  const auto* fill = operation_of<FillOperation>(lock, node);
  if (fill == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = fill->params;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS* params) {
  const StreamLock lock(stream_mutex());
  const auto* host = operation_of<HostOperation>(lock, node);
  if (host == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = host->params;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphBatchMemOpNodeGetParams(CUgraphNode node,
                                             CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  const StreamLock lock(stream_mutex());
  const auto* batch = operation_of<MemoryOperations>(lock, node);
  if (batch == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = CUDA_BATCH_MEM_OP_NODE_PARAMS{};
  params->count = static_cast<unsigned>(batch->operations.size());
  params->paramArray = const_cast<CUstreamBatchMemOpParams*>(batch->operations.data());
  return CUDA_SUCCESS;
}
CUresult api::cuGraphChildGraphNodeGetGraph(CUgraphNode handle, CUgraph* graph) {
  const StreamLock lock(stream_mutex());
  const Node* node = find_node(lock, handle);
  if (node == nullptr || node->child == nullptr || graph == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  *graph = handle_of(node->child.get());
  return CUDA_SUCCESS;
}
CUresult api::cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent* event) {
  return get_event<EventRecordOperation>(node, event);
}
CUresult api::cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent* event) {
  return get_event<EventWaitOperation>(node, event);
}
CUresult api::cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  const StreamLock lock(stream_mutex());
  const auto* alloc = operation_of<AllocOperation>(lock, node);
  if (alloc == nullptr || params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *params = alloc->params;
  return CUDA_SUCCESS;
}
CUresult api::cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr* address) {
  const StreamLock lock(stream_mutex());
  const auto* free = operation_of<FreeOperation>(lock, node);
  if (free == nullptr || address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *address = free->address;
  return CUDA_SUCCESS;
}

CUresult api::cuGraphKernelNodeSetParams_v2(CUgraphNode node,
                                            const CUDA_KERNEL_NODE_PARAMS* params) {
  return set_from(node, CU_GRAPH_NODE_TYPE_KERNEL, params);
}
CUresult api::cuGraphKernelNodeSetParams(CUgraphNode node,
                                         const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_KERNEL_NODE_PARAMS converted = to_v2(*params);
  return set_from(node, CU_GRAPH_NODE_TYPE_KERNEL, &converted);
}
CUresult api::cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D* params) {
  return set_from(node, CU_GRAPH_NODE_TYPE_MEMCPY, params);
}
CUresult api::cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS* params) {
  return set_from(node, CU_GRAPH_NODE_TYPE_MEMSET, params);
}
CUresult api::cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS* params) {
  return set_from(node, CU_GRAPH_NODE_TYPE_HOST, params);
}
CUresult api::cuGraphBatchMemOpNodeSetParams(CUgraphNode node,
                                             const CUDA_BATCH_MEM_OP_NODE_PARAMS* params) {
  return set_from(node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, params);
}
CUresult api::cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event) {
  return set_event<EventRecordOperation>(node, event);
}
CUresult api::cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event) {
  return set_event<EventWaitOperation>(node, event);
}
CUresult api::cuGraphNodeSetParams(CUgraphNode handle, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const StreamLock lock(stream_mutex());
  Node* node = find_node(lock, handle);
  if (node == nullptr || node->type != params->type) return CUDA_ERROR_INVALID_VALUE;
  if (node->type == CU_GRAPH_NODE_TYPE_GRAPH || node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
      node->type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  return read_params(lock, *params, &node->operation);
}

CUresult api::cuGraphKernelNodeGetAttribute(CUgraphNode node, CUkernelNodeAttrID,
                                            CUkernelNodeAttrValue* value) {
  const StreamLock lock(stream_mutex());
  if (operation_of<KernelOperation>(lock, node) == nullptr || value == nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *value = CUkernelNodeAttrValue{};
  return CUDA_SUCCESS;
}
CUresult api::cuGraphKernelNodeSetAttribute(CUgraphNode node, CUkernelNodeAttrID,
                                            const CUkernelNodeAttrValue* value) {
  const StreamLock lock(stream_mutex());
  const bool valid = operation_of<KernelOperation>(lock, node) != nullptr && value != nullptr;
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult api::cuGraphKernelNodeCopyAttributes(CUgraphNode to, CUgraphNode from) {
  const StreamLock lock(stream_mutex());
  const bool valid = operation_of<KernelOperation>(lock, to) != nullptr &&
                     operation_of<KernelOperation>(lock, from) != nullptr;
  return valid ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace kvshim::simulator
