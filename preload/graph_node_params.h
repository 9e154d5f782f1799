// Parameters of graph nodes in the forms of several driver versions, and what they reach.
#pragma once

#include <cuda.h>

#include "preload/graph_reach.h"

namespace kvshim::preload {

/// What all versions have.
template <class Params>
CUDA_KERNEL_NODE_PARAMS_v2 common_params(const Params& from) {
  CUDA_KERNEL_NODE_PARAMS_v2 params{};
  params.func = from.func;
  params.gridDimX = from.gridDimX;
  params.gridDimY = from.gridDimY;
  params.gridDimZ = from.gridDimZ;
  params.blockDimX = from.blockDimX;
  params.blockDimY = from.blockDimY;
  params.blockDimZ = from.blockDimZ;
  params.sharedMemBytes = from.sharedMemBytes;
  params.kernelParams = from.kernelParams;
  params.extra = from.extra;
  return params;
}

inline CUDA_KERNEL_NODE_PARAMS_v2 widened(const CUDA_KERNEL_NODE_PARAMS_v1& first) {
  return common_params(first);
}

inline CUDA_KERNEL_NODE_PARAMS_v2 narrowed(const CUDA_KERNEL_NODE_PARAMS_v3& third) {
  CUDA_KERNEL_NODE_PARAMS_v2 params = common_params(third);
  params.kern = third.kern;
  return params;
}

inline CUDA_MEMSET_NODE_PARAMS narrowed(const CUDA_MEMSET_NODE_PARAMS_v2& second) {
  CUDA_MEMSET_NODE_PARAMS fill{};
  fill.dst = second.dst;
  fill.pitch = second.pitch;
  fill.value = second.value;
  fill.elementSize = second.elementSize;
  fill.width = second.width;
  fill.height = second.height;
  return fill;
}

/// Of copies, fills and memory operations, which are all that the driver looks at when it is
/// given a node. Throws std::bad_alloc.
inline void add_copy_or_fill(GraphReach* reach, const CUgraphNodeParams& params) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      add_memcpy(reach, params.memcpy.copyParams);
      break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      add_memset(reach, narrowed(params.memset));
      break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      if (params.memOp.paramArray != nullptr) {
        add_memory_operations(reach, params.memOp.paramArray, params.memOp.count);
      }
      break;
    default:
      break;
  }
}

/// Of every kind of node that takes addresses. Throws std::bad_alloc.
inline void add_params(GraphReach* reach, const CUgraphNodeParams& params) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      add_kernel(reach, narrowed(params.kernel));
      break;
    case CU_GRAPH_NODE_TYPE_GRAPH:
      add_graph(reach, params.graph.graph);
      break;
    default:
      add_copy_or_fill(reach, params);
      break;
  }
}

}  // namespace kvshim::preload
