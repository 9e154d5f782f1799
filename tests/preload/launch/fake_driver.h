// A driver of functions, streams that capture, and graphs: as much of its rules as
// the hooks of launches and graphs depend on. Nothing is executed.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "preload/real_driver.h"

namespace kvshim::preload::testing {

struct FakeFunction {
  std::string name;
  std::vector<heuristics::ParamLayout> params;
  bool is_kernel = false;       // a CUkernel: the function queries refuse it
  const void* owner = nullptr;  // module or library
};

struct FakeGraph;

struct FakeNode {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  bool readable = true;
  CUDA_KERNEL_NODE_PARAMS_v2 kernel{};
  std::vector<std::vector<unsigned char>> bytes;  // the parameters' copies
  std::vector<void*> pointers;
  std::vector<unsigned char> buffer;  // the copy of an `extra` buffer
  std::size_t buffer_bytes = 0;
  void* extra[5] = {};
  CUDA_MEMCPY3D copy{};
  CUDA_MEMSET_NODE_PARAMS fill{};
  std::vector<CUstreamBatchMemOpParams> operations;
  std::unique_ptr<FakeGraph> child;
  bool device_updatable = false;
};

struct FakeGraph {
  std::vector<std::unique_ptr<FakeNode>> nodes;
};

struct FakeExec {
  FakeGraph graph;  // a copy, for launches into captures
};

struct FakeDriver {
  std::map<const void*, FakeFunction> functions;
  struct Launch {
    const char* entry_point;
    const void* function;
    CUstream stream;
  };
  std::vector<Launch> launches;
  int layout_queries = 0;
  CUresult next_result = CUDA_SUCCESS;  // of graph calls
  struct Capture {
    std::uint64_t id;
    FakeGraph* graph;
  };
  std::map<CUstream, Capture> captures;
  std::uint64_t last_capture = 0;
  std::set<FakeGraph*> graphs;
  std::set<FakeExec*> executables;
  int unloads = 0;

  /// Adds a function whose parameters have these sizes, naturally aligned.
  CUfunction add_function(std::uintptr_t handle, const std::string& name,
                          const std::vector<std::size_t>& sizes, bool is_kernel = false,
                          const void* owner = nullptr);
  ~FakeDriver();
};

/// The one of the running test. reset_driver() starts a new one and installs its
/// table as the real driver.
FakeDriver& driver();
void reset_driver();
RealDriver& driver_table();

/// For building graphs by hand as the host would see them after the fact.
FakeNode* add_kernel_copy(FakeGraph* graph, const CUDA_KERNEL_NODE_PARAMS_v2& params);
inline FakeGraph* fake(CUgraph graph) { return reinterpret_cast<FakeGraph*>(graph); }
inline FakeNode* fake(CUgraphNode node) { return reinterpret_cast<FakeNode*>(node); }

}  // namespace kvshim::preload::testing
