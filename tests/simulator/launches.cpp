#include "tests/simulator/launches.h"

#include <cstring>

#include "tests/simulator/modules.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

/// The buffer form: {POINTER, p, SIZE, &n, END} in any order.
CUresult read_extra(void** extra, const void** buffer, std::size_t* bytes) {
  *buffer = nullptr;
  *bytes = 0;
  for (std::size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
    if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
      *buffer = extra[i + 1];
    } else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE) {
      *bytes = *static_cast<std::size_t*>(extra[i + 1]);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return *buffer != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult copy_params(const Function& function, void** kernel_params, void** extra,
                     ParamBlock* block) {
  if (kernel_params != nullptr && extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  block->bytes.resize(function.params_bytes);
  if (extra != nullptr) {
    const void* buffer = nullptr;
    if (const CUresult bad = read_extra(extra, &buffer, &block->extra_bytes); bad != CUDA_SUCCESS) {
      return bad;
    }
    if (block->extra_bytes < function.params_bytes) return CUDA_ERROR_INVALID_VALUE;
    block->bytes.resize(block->extra_bytes);
    std::memcpy(block->bytes.data(), buffer, block->extra_bytes);
    block->from_extra = true;
    block->extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
    block->extra[1] = block->bytes.data();
    block->extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
    block->extra[3] = &block->extra_bytes;
    block->extra[4] = CU_LAUNCH_PARAM_END;
  } else if (!function.params.empty()) {
    if (kernel_params == nullptr) return CUDA_ERROR_INVALID_VALUE;
    for (std::size_t i = 0; i < function.params.size(); ++i) {
      std::memcpy(block->bytes.data() + function.params[i].offset, kernel_params[i],
                  function.params[i].bytes);
    }
  }
  for (const PtxParam& param : function.params) {
    block->pointers.push_back(block->bytes.data() + param.offset);
  }
  return CUDA_SUCCESS;
}

CUresult launch(CUfunction function, const unsigned grid[3], const unsigned block[3],
                unsigned shared_bytes, CUstream stream, void** kernel_params, void** extra) {
  KernelOperation operation;
  if (const CUresult bad =
          describe_launch(function, grid, block, shared_bytes, kernel_params, extra, &operation);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  return submit(stream, std::move(operation));
}

struct Callback {
  CUstreamCallback function;
  CUstream stream;
  void* data;
};

void run_callback(void* data) {
  const std::unique_ptr<Callback> callback(static_cast<Callback*>(data));
  callback->function(callback->stream, CUDA_SUCCESS, callback->data);
}

}  // namespace

CUresult describe_launch(CUfunction handle, const unsigned grid[3], const unsigned block[3],
                         unsigned shared_bytes, void** kernel_params, void** extra,
                         KernelOperation* launch) {
  const Function* function = find_function(handle);
  if (function != nullptr) {
    launch->given_function = handle;
  } else {
    const auto as_kernel = reinterpret_cast<CUkernel>(handle);
    const Kernel* kernel = find_kernel(as_kernel);
    if (kernel == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    launch->given_kernel = as_kernel;
    function = kernel->function;
  }
  if (function->call == nullptr) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  for (int i = 0; i < 3; ++i) {
    if (grid[i] == 0 || block[i] == 0) return CUDA_ERROR_INVALID_VALUE;
    launch->grid[i] = grid[i];
    launch->block[i] = block[i];
  }
  if (block[0] * block[1] * block[2] > 1024) return CUDA_ERROR_INVALID_VALUE;
  launch->function = function;
  launch->shared_bytes = shared_bytes;
  launch->params = std::make_shared<ParamBlock>();
  return copy_params(*function, kernel_params, extra, launch->params.get());
}

CUresult api::cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z,
                             unsigned shared_bytes, CUstream stream, void** params, void** extra) {
  const unsigned grid[] = {grid_x, grid_y, grid_z};
  const unsigned block[] = {block_x, block_y, block_z};
  return launch(function, grid, block, shared_bytes, stream, params, extra);
}

CUresult api::cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                        unsigned grid_z, unsigned block_x, unsigned block_y,
                                        unsigned block_z, unsigned shared_bytes, CUstream stream,
                                        void** params) {
  const unsigned grid[] = {grid_x, grid_y, grid_z};
  const unsigned block[] = {block_x, block_y, block_z};
  return launch(function, grid, block, shared_bytes, stream, params, nullptr);
}

CUresult api::cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params,
                               void** extra) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const unsigned grid[] = {config->gridDimX, config->gridDimY, config->gridDimZ};
  const unsigned block[] = {config->blockDimX, config->blockDimY, config->blockDimZ};
  return launch(function, grid, block, config->sharedMemBytes, config->hStream, params, extra);
}

CUresult api::cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS* launches, unsigned count,
                                                   unsigned) {
  if (launches == nullptr || count != 1) return CUDA_ERROR_INVALID_VALUE;  // one device
  const CUDA_LAUNCH_PARAMS& one = launches[0];
  const unsigned grid[] = {one.gridDimX, one.gridDimY, one.gridDimZ};
  const unsigned block[] = {one.blockDimX, one.blockDimY, one.blockDimZ};
  return launch(one.function, grid, block, one.sharedMemBytes, one.hStream, one.kernelParams,
                nullptr);
}

CUresult api::cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return submit(stream, HostOperation{{function, data}});
}

CUresult api::cuStreamAddCallback(CUstream stream, CUstreamCallback function, void* data,
                                  unsigned flags) {
  if (function == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  {
    const StreamLock lock(stream_mutex());
    const auto found = find_stream(lock, stream);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (found->capture != nullptr) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  auto callback = std::make_unique<Callback>(Callback{function, stream, data});
  const CUresult result = submit(stream, HostOperation{{run_callback, callback.get()}});
  if (result == CUDA_SUCCESS) callback.release();  // NOLINT: owned by run_callback
  return result;
}

CUresult api::cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int block_size,
                                                          std::size_t) {
  if (blocks == nullptr || block_size <= 0) return CUDA_ERROR_INVALID_VALUE;
  *blocks = 2048 / block_size;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
