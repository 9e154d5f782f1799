// Carrying out operations on a stream's thread.
#include <atomic>
#include <ctime>
#include <variant>

#include "tests/simulator/copies.h"
#include "tests/simulator/events.h"
#include "tests/simulator/faults.h"
#include "tests/simulator/graphs.h"
#include "tests/simulator/memory.h"
#include "tests/simulator/modules.h"
#include "vmm/kernels/kernel_env.h"

namespace kvshim::simulator {
namespace {

template <class Work>
CUresult guarded(Work&& work) {
  return run_guarded(std::forward<Work>(work)) ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}

void run_kernel(const KernelOperation& kernel) {
  auto& place = kernel_env::host_block;
  place.count_x = kernel.grid[0];
  for (unsigned z = 0; z < kernel.grid[2]; ++z) {
    for (place.y = 0; place.y < kernel.grid[1]; ++place.y) {
      for (place.x = 0; place.x < kernel.grid[0]; ++place.x) {
        kernel.function->call(kernel.params->pointers.data());
      }
    }
  }
}

template <class Word>
bool holds(Word value, Word wanted, unsigned how) {
  switch (how & 3U) {
    case CU_STREAM_WAIT_VALUE_GEQ:
      return static_cast<std::make_signed_t<Word>>(value - wanted) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
      return value == wanted;
    case CU_STREAM_WAIT_VALUE_AND:
      return (value & wanted) != 0;
    default:
      return static_cast<Word>(~(value | wanted)) != 0;
  }
}

template <class Word>
Word& word_at(CUdeviceptr address) {
  return *reinterpret_cast<Word*>(address);  // NOLINT(performance-no-int-to-ptr)
}

template <class Word>
void wait_for_value(CUdeviceptr address, Word wanted, unsigned how) {
  while (!holds(std::atomic_ref(word_at<Word>(address)).load(), wanted, how)) {
    const timespec pause{0, 20000};
    nanosleep(&pause, nullptr);
  }
}

void perform(const CUstreamBatchMemOpParams& operation) {
  switch (operation.operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      wait_for_value<std::uint32_t>(operation.waitValue.address, operation.waitValue.value,
                                    operation.waitValue.flags);
      return;
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      wait_for_value<std::uint64_t>(operation.waitValue.address, operation.waitValue.value64,
                                    operation.waitValue.flags);
      return;
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      std::atomic_ref(word_at<std::uint32_t>(operation.writeValue.address))
          .store(operation.writeValue.value);
      return;
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      std::atomic_ref(word_at<std::uint64_t>(operation.writeValue.address))
          .store(operation.writeValue.value64);
      return;
    default:
      return;  // flushes and barriers: memory is coherent here
  }
}

CUresult run_graph(const GraphOperation& operation, Context& context) {
  std::size_t record = 0;
  for (const Node* node : in_order(*operation.graph)) {
    if (node->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD) {
      const StreamLock lock(stream_mutex());
      // Announced at the launch; a child graph's records are not.
      if (record < operation.records.size()) complete(lock, operation.records[record++]);
      continue;
    }
    if (!node->enabled) continue;
    CUresult result = CUDA_SUCCESS;
    if (node->child != nullptr) {
      result = run_graph(GraphOperation{node->child, {}}, context);
    } else {
      result = execute(node->operation, context);
    }
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

struct Executor {
  Context& context;

  CUresult operator()(const EmptyOperation&) const { return CUDA_SUCCESS; }
  CUresult operator()(const KernelOperation& kernel) const {
    return guarded([&] { run_kernel(kernel); });
  }
  CUresult operator()(const CopyOperation& copy) const {
    return guarded([&] { simulator::perform(copy); });
  }
  CUresult operator()(const FillOperation& fill) const {
    return guarded([&] { simulator::perform(fill.params); });
  }
  CUresult operator()(const HostOperation& host) const {
    host.params.fn(host.params.userData);
    return CUDA_SUCCESS;
  }
  CUresult operator()(const EventRecordOperation&) const { return CUDA_SUCCESS; }
  CUresult operator()(const EventWaitOperation& wait) const {
    StreamLock lock(stream_mutex());
    if (const CompletionRef recorded = wait.event->recorded) wait_for(lock, recorded);
    return CUDA_SUCCESS;
  }
  CUresult operator()(const MemoryOperations& memory) const {
    return guarded([&] {
      for (const auto& operation : memory.operations) perform(operation);
    });
  }
  CUresult operator()(const GraphOperation& graph) const { return run_graph(graph, context); }
  CUresult operator()(const AllocOperation&) const {
    return CUDA_SUCCESS;  // the memory exists as long as the graph
  }
  CUresult operator()(const FreeOperation& free) const {
    if (free.in_graph) return CUDA_SUCCESS;
    free_device(free.address);
    return CUDA_SUCCESS;
  }
};

}  // namespace

CUresult execute(const Operation& operation, Context& context) {
  return std::visit(Executor{context}, operation);
}

}  // namespace kvshim::simulator
