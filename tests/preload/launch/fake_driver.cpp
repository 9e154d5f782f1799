#include "tests/preload/launch/fake_driver.h"

#include <mutex>

#include "tests/preload/launch/fake_graphs.h"

namespace kvshim::preload {

namespace testing {

namespace {

std::unique_ptr<FakeDriver> g_driver;
RealDriver g_table;
std::mutex g_mutex;

const FakeFunction* function_of(const void* handle, bool kernel) {
  const auto found = driver().functions.find(handle);
  if (found == driver().functions.end() || found->second.is_kernel != kernel) return nullptr;
  return &found->second;
}

CUresult param_info(const FakeFunction* function, std::size_t index, std::size_t* offset,
                    std::size_t* size) {
  {
    const std::lock_guard lock(g_mutex);
    ++driver().layout_queries;
  }
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (index >= function->params.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = function->params[index].offset;
  *size = function->params[index].size;
  return CUDA_SUCCESS;
}

CUresult record(const char* entry_point, CUfunction function, CUstream stream, void** params,
                void** extra, unsigned int grid_x, bool device_updatable = false) {
  const std::lock_guard lock(g_mutex);
  driver().launches.push_back({entry_point, function, stream});
  const auto capture = driver().captures.find(stream);
  if (capture != driver().captures.end()) {
    CUDA_KERNEL_NODE_PARAMS_v2 node{};
    node.func = function;
    node.gridDimX = grid_x;
    node.kernelParams = params;
    node.extra = extra;
    add_kernel_copy(capture->second.graph, node)->device_updatable = device_updatable;
  }
  return CUDA_SUCCESS;
}

CUresult begin(CUstream stream, FakeGraph* graph) {
  driver().captures[stream] = {++driver().last_capture, graph};
  return CUDA_SUCCESS;
}

void fill_functions(RealDriver& t) {
  t.cuFuncGetParamInfo = [](CUfunction f, std::size_t i, std::size_t* offset, std::size_t* size) {
    return param_info(function_of(f, false), i, offset, size);
  };
  t.cuKernelGetParamInfo = [](CUkernel k, std::size_t i, std::size_t* offset, std::size_t* size) {
    return param_info(function_of(k, true), i, offset, size);
  };
  t.cuFuncGetName = [](const char** name, CUfunction f) {
    *name = function_of(f, false)->name.c_str();
    return CUDA_SUCCESS;
  };
  t.cuKernelGetName = [](const char** name, CUkernel k) {
    *name = function_of(k, true)->name.c_str();
    return CUDA_SUCCESS;
  };
  t.cuFuncGetModule = [](CUmodule* module, CUfunction f) {
    *module = static_cast<CUmodule>(const_cast<void*>(function_of(f, false)->owner));
    return CUDA_SUCCESS;
  };
  t.cuKernelGetLibrary = [](CUlibrary* library, CUkernel k) {
    *library = static_cast<CUlibrary>(const_cast<void*>(function_of(k, true)->owner));
    return CUDA_SUCCESS;
  };
  t.cuModuleUnload = [](CUmodule) {
    ++driver().unloads;
    return CUDA_SUCCESS;
  };
  t.cuLibraryUnload = [](CUlibrary) {
    ++driver().unloads;
    return CUDA_SUCCESS;
  };
}

void fill_launches(RealDriver& t) {
  t.cuLaunchKernel = [](CUfunction f, unsigned gx, unsigned, unsigned, unsigned, unsigned, unsigned,
                        unsigned, CUstream stream, void** params, void** extra) {
    return record("cuLaunchKernel", f, stream, params, extra, gx);
  };
  t.cuLaunchKernel_ptsz = [](CUfunction f, unsigned gx, unsigned, unsigned, unsigned, unsigned,
                             unsigned, unsigned, CUstream stream, void** params, void** extra) {
    return record("cuLaunchKernel_ptsz", f, stream, params, extra, gx);
  };
  t.cuLaunchKernelEx = [](const CUlaunchConfig* config, CUfunction f, void** params, void** extra) {
    if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
    bool updatable = false;
    for (unsigned i = 0; i < config->numAttrs; ++i) {
      updatable |= config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE;
    }
    return record("cuLaunchKernelEx", f, config->hStream, params, extra, config->gridDimX,
                  updatable);
  };
  t.cuLaunchCooperativeKernel = [](CUfunction f, unsigned gx, unsigned, unsigned, unsigned,
                                   unsigned, unsigned, unsigned, CUstream stream, void** params) {
    return record("cuLaunchCooperativeKernel", f, stream, params, nullptr, gx);
  };
  t.cuLaunchCooperativeKernelMultiDevice = [](CUDA_LAUNCH_PARAMS* list, unsigned count, unsigned) {
    for (unsigned i = 0; i < count; ++i) {
      record("cuLaunchCooperativeKernelMultiDevice", list[i].function, list[i].hStream,
             list[i].kernelParams, nullptr, list[i].gridDimX);
    }
    return CUDA_SUCCESS;
  };
  t.cuLaunchGridAsync = [](CUfunction f, int, int, CUstream stream) {
    return record("cuLaunchGridAsync", f, stream, nullptr, nullptr, 1);
  };
}

void fill_captures(RealDriver& t) {
  t.cuStreamBeginCapture_v2 = [](CUstream stream, CUstreamCaptureMode) {
    return begin(stream, fake(new_graph()));
  };
  t.cuStreamBeginCaptureToGraph = [](CUstream stream, CUgraph graph, const CUgraphNode*,
                                     const CUgraphEdgeData*, size_t,
                                     CUstreamCaptureMode) { return begin(stream, fake(graph)); };
  t.cuStreamEndCapture = [](CUstream stream, CUgraph* graph) {
    const auto found = driver().captures.find(stream);
    if (found == driver().captures.end()) return CUDA_ERROR_ILLEGAL_STATE;
    *graph = reinterpret_cast<CUgraph>(found->second.graph);
    driver().captures.erase(found);
    return driver().next_result;
  };
  t.cuStreamGetCaptureInfo_v2 = [](CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                   CUgraph* graph, const CUgraphNode**, std::size_t*) {
    const auto found = driver().captures.find(stream);
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (found == driver().captures.end()) return CUDA_SUCCESS;
    *status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    *id = found->second.id;
    *graph = reinterpret_cast<CUgraph>(found->second.graph);
    return CUDA_SUCCESS;
  };
  t.cuStreamDestroy_v2 = [](CUstream stream) {
    driver().captures.erase(stream);
    return CUDA_SUCCESS;
  };
}

void fill_contexts(RealDriver& t) {
  t.cuDevicePrimaryCtxRetain = [](CUcontext* context, CUdevice device) {
    *context = reinterpret_cast<CUcontext>(std::uintptr_t{0xc000} + static_cast<unsigned>(device));
    return CUDA_SUCCESS;
  };
  t.cuDevicePrimaryCtxRelease_v2 = [](CUdevice) { return CUDA_SUCCESS; };
  t.cuDevicePrimaryCtxReset_v2 = [](CUdevice) { return CUDA_SUCCESS; };
  t.cuCtxDestroy_v2 = [](CUcontext) { return CUDA_SUCCESS; };
}

}  // namespace

CUfunction FakeDriver::add_function(std::uintptr_t handle, const std::string& name,
                                    const std::vector<std::size_t>& sizes, bool is_kernel,
                                    const void* owner) {
  FakeFunction function{name, {}, is_kernel, owner};
  std::size_t offset = 0;
  for (const std::size_t size : sizes) {
    const std::size_t alignment = size % 8 == 0 ? 8 : size % 4 == 0 ? 4 : 1;
    offset = (offset + alignment - 1) / alignment * alignment;
    function.params.push_back({offset, size});
    offset += size;
  }
  functions[reinterpret_cast<const void*>(handle)] = function;
  return reinterpret_cast<CUfunction>(handle);
}

FakeDriver::~FakeDriver() {
  for (FakeGraph* graph : graphs) delete graph;
  for (FakeExec* exec : executables) delete exec;
}

FakeDriver& driver() { return *g_driver; }
RealDriver& driver_table() { return g_table; }

void reset_driver() {
  g_driver = std::make_unique<FakeDriver>();
  g_table = RealDriver{};
  fill_functions(g_table);
  fill_launches(g_table);
  fill_captures(g_table);
  fill_graph_functions(g_table);
  fill_contexts(g_table);
  real_driver_detail::found.store(&g_table);
}

}  // namespace testing

// In place of the search for libcuda.so.1.
namespace real_driver_detail {
std::atomic<const RealDriver*> found{nullptr};
const RealDriver& find() noexcept { return testing::driver_table(); }
}  // namespace real_driver_detail

}  // namespace kvshim::preload
