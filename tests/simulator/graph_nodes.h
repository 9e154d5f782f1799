// Node parameters as driver structures, to operations and back.
#pragma once

#include "tests/simulator/graphs.h"

namespace kvshim::simulator {

// Each fails as the driver call that takes the structure does.
CUresult read_params(const CUDA_KERNEL_NODE_PARAMS& params, Operation* operation);
CUresult read_params(const CUDA_MEMCPY3D& params, Operation* operation);
CUresult read_params(const CUDA_MEMSET_NODE_PARAMS& params, Operation* operation);
CUresult read_params(const CUDA_HOST_NODE_PARAMS& params, Operation* operation);
CUresult read_params(const CUDA_BATCH_MEM_OP_NODE_PARAMS& params, Operation* operation);
/// The generic form, for those of its types that are operations (not child graphs).
CUresult read_params(const StreamLock& lock, const CUgraphNodeParams& params, Operation* operation);

CUDA_KERNEL_NODE_PARAMS to_v2(const CUDA_KERNEL_NODE_PARAMS_v1& old);

}  // namespace kvshim::simulator
