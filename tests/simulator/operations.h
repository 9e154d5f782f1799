// A piece of GPU work as data: what a stream executes and a graph's node holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "tests/simulator/api.h"

namespace kvshim::simulator {

struct Completion;
struct Context;
struct Event;
struct Function;
struct Graph;

/// A kernel's parameters, copied at launch.
struct ParamBlock {
  std::vector<std::byte> bytes;
  std::vector<void*> pointers;  // into bytes, one a parameter
  bool from_extra = false;      // given as one buffer
  std::size_t extra_bytes = 0;
  void* extra[5] = {};  // rebuilt over `bytes`, for graph queries
};

struct KernelOperation {
  const Function* function = nullptr;
  CUfunction given_function = nullptr;  // the handle it was launched with: this
  CUkernel given_kernel = nullptr;      // or this
  unsigned grid[3] = {1, 1, 1};
  unsigned block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  std::shared_ptr<ParamBlock> params;
};

/// Rows and planes of bytes. Addresses are resolved: arrays are plain memory.
struct CopyOperation {
  CUDA_MEMCPY3D as_given{};  // for graph queries
  const std::byte* source = nullptr;
  std::byte* destination = nullptr;
  std::size_t source_pitch = 0, source_height = 0;
  std::size_t destination_pitch = 0, destination_height = 0;
  std::size_t width = 0, height = 1, depth = 1;
  bool moves = false;  // whole pages between GPU and host memory, both mapped
  std::shared_ptr<std::vector<std::byte>> staged;  // pageable source, taken at the call
};

struct FillOperation {
  CUDA_MEMSET_NODE_PARAMS params{};
};

struct HostOperation {
  CUDA_HOST_NODE_PARAMS params{};
};

struct EventRecordOperation {
  std::shared_ptr<Event> event;
};

struct EventWaitOperation {
  std::shared_ptr<Event> event;
};

struct MemoryOperations {
  std::vector<CUstreamBatchMemOpParams> operations;
};

struct GraphOperation {
  std::shared_ptr<const Graph> graph;
  std::vector<std::shared_ptr<Completion>> records;  // of its event record nodes, in order
};

struct AllocOperation {
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
};

struct FreeOperation {
  CUdeviceptr address = 0;
  bool in_graph = false;  // the graph's memory: freed with the graph
};

struct EmptyOperation {};

using Operation = std::variant<EmptyOperation, KernelOperation, CopyOperation, FillOperation,
                               HostOperation, EventRecordOperation, EventWaitOperation,
                               MemoryOperations, GraphOperation, AllocOperation, FreeOperation>;

/// Carries it out on the calling (stream) thread. Waits for memory values and
/// for events of graphs happen here. Returns the sticky error it caused.
CUresult execute(const Operation& operation, Context& context);

}  // namespace kvshim::simulator
