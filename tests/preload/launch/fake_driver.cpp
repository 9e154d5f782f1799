#include "tests/preload/launch/fake_driver.h"

#include <cstring>
#include <mutex>

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

CUgraph new_graph() {
  auto* graph = new FakeGraph;
  driver().graphs.insert(graph);
  return reinterpret_cast<CUgraph>(graph);
}

FakeNode* add_node(FakeGraph* graph, CUgraphNodeType type) {
  graph->nodes.push_back(std::make_unique<FakeNode>());
  graph->nodes.back()->type = type;
  return graph->nodes.back().get();
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

template <class Out>
CUresult instantiate(Out* exec, CUgraph graph) {
  if (driver().next_result != CUDA_SUCCESS) return driver().next_result;
  auto* made = new FakeExec;
  copy_nodes(*fake(graph), &made->graph);
  driver().executables.insert(made);
  *exec = reinterpret_cast<CUgraphExec>(made);
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

FakeNode* add_kernel_copy(FakeGraph* graph, const CUDA_KERNEL_NODE_PARAMS_v2& params) {
  FakeNode* node = add_node(graph, CU_GRAPH_NODE_TYPE_KERNEL);
  set_kernel(node, params);
  return node;
}

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
  fill_graphs(g_table);
  fill_executables(g_table);
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
