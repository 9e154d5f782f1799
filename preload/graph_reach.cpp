#include "preload/graph_reach.h"

#include <algorithm>

#include "preload/function_info.h"
#include "preload/graph_capture.h"
#include "preload/graph_node_params.h"
#include "preload/real_driver.h"
#include "preload/root_scan.h"

namespace kvshim::preload {

namespace {

void touch(GraphReach* reach, const PoolView& pool, bool stays_in_written) {
  const auto known =
      std::find_if(reach->touched.begin(), reach->touched.end(),
                   [&](const Access& access) { return access.address == pool.base; });
  if (known == reach->touched.end()) {
    reach->touched.push_back({pool.base, pool.bytes, false, stays_in_written});
  } else {
    known->stays_in_written = known->stays_in_written && stays_in_written;
  }
}

/// Whether nothing that the launch reads without having been told to write it is
/// unwritten.
bool stays_in_written(const LaunchReach& launch) {
  return std::all_of(launch.accesses.begin(), launch.accesses.end(),
                     [](const Access& access) { return access.writes || access.stays_in_written; });
}

void write(GraphReach* reach, CUdeviceptr address, std::size_t bytes) {
  const bool covered =
      std::any_of(reach->written.begin(), reach->written.end(), [&](const Access& access) {
        return access.address <= address && address - access.address <= access.bytes &&
               bytes <= access.bytes - (address - access.address);
      });
  if (!covered) reach->written.push_back({address, bytes, true});
}

void add_range(GraphReach* reach, CUdeviceptr address, std::size_t bytes, bool writes) {
  if (bytes == 0 || !meets_arena(address, bytes)) return;
  const std::vector<PoolView> pools = pools_in(address, bytes);
  // What is written has been made present by then.
  for (const PoolView& pool : pools) touch(reach, pool, writes);
  if (writes && !pools.empty()) write(reach, address, bytes);
}

/// A box of rows: `pitch` bytes from row to row, `rows_per_slice` rows from slice to slice.
std::size_t box_bytes(std::size_t width, std::size_t height, std::size_t depth, std::size_t pitch,
                      std::size_t rows_per_slice) {
  if (width == 0 || height == 0 || depth == 0) return 0;
  if (pitch == 0) pitch = width;
  if (rows_per_slice == 0) rows_per_slice = height;
  return ((depth - 1) * rows_per_slice + (height - 1)) * pitch + width;
}

/// One side of a copy. A host pointer is looked at as well: with unified
/// addresses a caller may have called a pool's address one.
struct CopySide {
  CUmemorytype type;
  const void* host;
  CUdeviceptr device;
  std::size_t x, y, z, pitch, height;
};

void add_side(GraphReach* reach, const CopySide& side, const CUDA_MEMCPY3D& copy, bool writes) {
  if (side.type == CU_MEMORYTYPE_ARRAY) return;
  const CUdeviceptr base =
      side.type == CU_MEMORYTYPE_HOST ? reinterpret_cast<CUdeviceptr>(side.host) : side.device;
  const std::size_t pitch = side.pitch != 0 ? side.pitch : copy.WidthInBytes;
  const std::size_t height = side.height != 0 ? side.height : copy.Height;
  add_range(reach, base + (side.z * height + side.y) * pitch + side.x,
            box_bytes(copy.WidthInBytes, copy.Height, copy.Depth, pitch, height), writes);
}

bool device_updatable(CUgraphNode node) {
  const auto get_attribute = real().cuGraphKernelNodeGetAttribute;
  if (get_attribute == nullptr) return false;  // as old as the attribute is not
  CUkernelNodeAttrValue value{};
  return get_attribute(node, CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE, &value) ==
             CUDA_SUCCESS &&
         value.deviceUpdatableKernelNode.deviceUpdatable != 0;
}

/// False when the node can't be read.
bool read_kernel_node(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v2* out) {
  CUDA_KERNEL_NODE_PARAMS_v2& params = *out;
  if (real().cuGraphKernelNodeGetParams_v2 != nullptr) {
    if (real().cuGraphKernelNodeGetParams_v2(node, &params) != CUDA_SUCCESS) return false;
  } else {
    if (real().cuGraphKernelNodeGetParams == nullptr) return false;
    CUDA_KERNEL_NODE_PARAMS_v1 first{};
    if (real().cuGraphKernelNodeGetParams(node, &first) != CUDA_SUCCESS) return false;
    params = widened(first);
  }
  // A node captured from a CUkernel has both set, and `func` is not what was launched.
  if (params.kern != nullptr && find_function(params.kern) != nullptr) params.func = nullptr;
  return true;
}

bool add_kernel_node(GraphReach* reach, CUgraphNode node) {
  CUDA_KERNEL_NODE_PARAMS_v2 params{};
  if (!read_kernel_node(node, &params)) return false;
  const std::size_t words = reach->words.size();
  add_kernel(reach, params);
  if (reach->words.size() != words && !reach->device_updatable) {
    reach->device_updatable = device_updatable(node);
  }
  return true;
}

bool add_memcpy_node(GraphReach* reach, CUgraphNode node) {
  const auto get_params = real().cuGraphMemcpyNodeGetParams;
  CUDA_MEMCPY3D copy{};
  if (get_params == nullptr || get_params(node, &copy) != CUDA_SUCCESS) return false;
  add_memcpy(reach, copy);
  return true;
}

bool add_memset_node(GraphReach* reach, CUgraphNode node) {
  const auto get_params = real().cuGraphMemsetNodeGetParams;
  CUDA_MEMSET_NODE_PARAMS fill{};
  if (get_params == nullptr || get_params(node, &fill) != CUDA_SUCCESS) return false;
  add_memset(reach, fill);
  return true;
}

bool add_batch_node(GraphReach* reach, CUgraphNode node) {
  const auto get_params = real().cuGraphBatchMemOpNodeGetParams;
  CUDA_BATCH_MEM_OP_NODE_PARAMS batch{};
  if (get_params == nullptr || get_params(node, &batch) != CUDA_SUCCESS) return false;
  add_memory_operations(reach, batch.paramArray, batch.count);
  return true;
}

bool add_child_node(GraphReach* reach, CUgraphNode node) {
  const auto get_graph = real().cuGraphChildGraphNodeGetGraph;
  CUgraph child = nullptr;
  if (get_graph == nullptr || get_graph(node, &child) != CUDA_SUCCESS) return false;
  add_graph(reach, child);
  return true;
}

bool add_conditional_node(GraphReach* reach, CUgraphNode node) {
  const std::vector<CUgraph> bodies = conditional_bodies(node);
  for (CUgraph body : bodies) add_graph(reach, body);
  return !bodies.empty();
}

/// False when the node can't be read.
bool add_node(GraphReach* reach, CUgraphNode node) {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  if (real().cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) return false;
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return add_kernel_node(reach, node);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return add_memcpy_node(reach, node);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return add_memset_node(reach, node);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return add_batch_node(reach, node);
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return add_child_node(reach, node);
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:
      return add_conditional_node(reach, node);
    case CU_GRAPH_NODE_TYPE_HOST:
    case CU_GRAPH_NODE_TYPE_EMPTY:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_SIGNAL:
    case CU_GRAPH_NODE_TYPE_EXT_SEMAS_WAIT:
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return true;
  }
  return false;  // a kind of node younger than this code
}

}  // namespace

void add_kernel(GraphReach* reach, const CUDA_KERNEL_NODE_PARAMS_v2& node) {
  const FunctionInfo* info =
      find_function(node.func != nullptr ? static_cast<const void*>(node.func) : node.kern);
  if (info == nullptr || !info->layout_known) {
    add_every_pool(reach);
    return;
  }
  // A captured guard names what its writer names, and pool ends besides.
  reach->has_own_kernels = reach->has_own_kernels || info->own_guard;
  if (info->own_guard || !names_arena(*info, node.kernelParams, node.extra)) return;
  const LaunchReach launch = reach_of(*info, {node.kernelParams,
                                              node.extra,
                                              {node.gridDimX, node.gridDimY, node.gridDimZ},
                                              {node.blockDimX, node.blockDimY, node.blockDimZ}});
  const bool in_written = stays_in_written(launch);
  for (const PoolWord& word : launch.words) {
    touch(reach, word.pool, in_written);
    reach->words.push_back(word.value);
  }
  for (const Access& access : launch.accesses) {
    if (access.writes) write(reach, access.address, access.bytes);
  }
  switch (launch.kind) {
    case LaunchReach::Kind::kNothing:
    case LaunchReach::Kind::kReads:
      return;
    case LaunchReach::Kind::kLinearWrite:
      for (std::uint32_t i = 0; i < launch.linear.destinations; ++i) {
        const vmm::LinearDestination& destination = launch.linear.destination[i];
        add_range(reach, destination.pool_begin, destination.pool_end - destination.pool_begin,
                  true);
      }
      return;
    case LaunchReach::Kind::kFill:
      add_range(reach, launch.fill.address, launch.fill.bytes, true);
      return;
    case LaunchReach::Kind::kUnknown:
      reach->unknown_kernels.push_back({info->name.empty() ? "(unnamed)" : info->name,
                                        describe_words(*info, launch.words),
                                        written_bytes(launch.accesses)});
      return;
  }
}

void add_memcpy(GraphReach* reach, const CUDA_MEMCPY3D& copy) {
  add_side(reach,
           {copy.srcMemoryType, copy.srcHost, copy.srcDevice, copy.srcXInBytes, copy.srcY,
            copy.srcZ, copy.srcPitch, copy.srcHeight},
           copy, false);
  add_side(reach,
           {copy.dstMemoryType, copy.dstHost, copy.dstDevice, copy.dstXInBytes, copy.dstY,
            copy.dstZ, copy.dstPitch, copy.dstHeight},
           copy, true);
}

void add_memset(GraphReach* reach, const CUDA_MEMSET_NODE_PARAMS& fill) {
  const std::size_t width = fill.width * fill.elementSize;
  // The pitch of a single row means nothing.
  add_range(reach, fill.dst, box_bytes(width, fill.height, 1, fill.pitch, fill.height), true);
}

void add_memory_operations(GraphReach* reach, const CUstreamBatchMemOpParams* operations,
                           std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const CUstreamBatchMemOpParams& operation = operations[i];
    switch (operation.operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        add_range(reach, operation.waitValue.address, 4, false);
        break;
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        add_range(reach, operation.waitValue.address, 8, false);
        break;
      case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        add_range(reach, operation.writeValue.address, 4, true);
        break;
      case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        add_range(reach, operation.writeValue.address, 8, true);
        break;
      case CU_STREAM_MEM_OP_BARRIER:
      case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        break;
    }
  }
}

void add_every_pool(GraphReach* reach) {
  for (const PoolView& pool : pools_in(gate_detail::arena_base, gate_detail::arena_bytes)) {
    touch(reach, pool, false);
    write(reach, pool.base, pool.bytes);
  }
}

void add_graph(GraphReach* reach, CUgraph graph) {
  std::size_t count = 0;
  const auto get_nodes = real().cuGraphGetNodes;
  if (get_nodes == nullptr || get_nodes(graph, nullptr, &count) != CUDA_SUCCESS) {
    add_every_pool(reach);
    return;
  }
  std::vector<CUgraphNode> nodes(count);
  if (count != 0 && get_nodes(graph, nodes.data(), &count) != CUDA_SUCCESS) {
    add_every_pool(reach);
    return;
  }
  nodes.resize(std::min(count, nodes.size()));
  for (CUgraphNode node : nodes) {
    if (!add_node(reach, node)) add_every_pool(reach);
  }
}

bool is_guard_node(CUgraphNode node) {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  CUDA_KERNEL_NODE_PARAMS_v2 params{};
  if (node == nullptr || real().cuGraphNodeGetType(node, &type) != CUDA_SUCCESS ||
      type != CU_GRAPH_NODE_TYPE_KERNEL || !read_kernel_node(node, &params)) {
    return false;
  }
  const FunctionInfo* info =
      find_function(params.func != nullptr ? static_cast<const void*>(params.func) : params.kern);
  return info != nullptr && info->own_guard;
}

GraphReach reach_of_graph(CUgraph graph) {
  GraphReach reach;
  add_graph(&reach, graph);
  return reach;
}

}  // namespace kvshim::preload
