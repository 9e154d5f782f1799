// The end of pools: when everything has finished that may touch them.
#include "preload/freeing.h"

#include <chrono>
#include <list>
#include <string>
#include <utility>

#include "observe/log.h"
#include "preload/deferred_frees.h"
#include "preload/graph_capture.h"
#include "preload/submission.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

// For a guard that copies the pool's parked pages: milliseconds, unless its GPU or its process
// is stopped.
constexpr std::chrono::seconds kGuardPatience{1};

// As cuMemFree waits: for everything that the pool's GPU has to do, whatever context
// is current. During a capture elsewhere a context synchronisation would invalidate
// it, so the pool's own work is waited for by queries, unless it will never end: after
// an error, which the own stream shows as every stream does. NOT_READY: some of it can't
// be asked about (of a stream that was destroyed).
CUresult wait_as_free_does(Runtime& runtime, DeviceRuntime& device, const vmm::PoolRecord& record) {
  vmm::ContextScope current(runtime.driver(), record.context);
  if (!any_capture()) return runtime.driver().cuCtxSynchronize();
  return device.wait_beside_captures(runtime.driver());
}

// An event goes with its context, and with that its stream's work has ended.
bool is_reached(Runtime& runtime, CUevent event) {
  const CUresult state = runtime.driver().cuEventQuery(event);
  return state == CUDA_SUCCESS || state == CUDA_ERROR_INVALID_HANDLE ||
         state == CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

bool has_come_to_its_free(Runtime& runtime, const DeferredFree& one) {
  const vmm::PoolRecord* record = pool_at_base(one.base);
  if (record == nullptr || record->id != one.pool) return true;
  DeviceRuntime* const device = runtime.of(*record);
  if (device == nullptr) return true;  // its context is ending
  vmm::ContextScope current(runtime.driver(), device->memory.context());
  return (one.event == nullptr || is_reached(runtime, one.event)) &&
         (one.behind_all || device->streams.finished());
}

// All that may touch it has finished, but for guards of other pools that copy its row.
CUresult let_go(DeviceRuntime& device, CUdeviceptr base, std::chrono::milliseconds patience) {
  vmm::Releaser::Pause pause(device.releaser);
  device.releaser.look_whether_finished();
  return device.memory.free(base, patience);
}

// False: not yet.
bool finish_free(Runtime& runtime, DeferredFree& one) {
  if (one.event != nullptr) {
    runtime.driver().cuEventDestroy_v2(std::exchange(one.event, nullptr));
  }
  const vmm::PoolRecord* record = pool_at_base(one.base);
  if (record == nullptr || record->id != one.pool) return true;  // its context has ended
  DeviceRuntime* const device = runtime.of(*record);
  if (device == nullptr) return true;
  one.behind_all = true;  // all of that has ended, once and for all
  vmm::ContextScope current(runtime.driver(), device->memory.context());
  return let_go(*device, one.base, {}) != CUDA_ERROR_NOT_READY;
}

}  // namespace

const vmm::PoolRecord* pool_at_base(CUdeviceptr address) {
  if (!in_arena(address)) return nullptr;
  const Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  return record != nullptr && record->base == address ? record : nullptr;
}

CUresult free_pool(Runtime& runtime, const vmm::PoolRecord& record) {
  DeviceRuntime* const found = runtime.of(record);
  if (found == nullptr) return CUDA_SUCCESS;  // the end of its context frees it
  DeviceRuntime& device = *found;
  const CUresult waited = wait_as_free_does(runtime, device, record);
  if (waited == CUDA_ERROR_NOT_READY) {
    deferred_frees().add({record.base, record.id, nullptr, false});
    return CUDA_SUCCESS;
  }
  if (waited != CUDA_SUCCESS && waited != CUDA_ERROR_DEINITIALIZED) return waited;
  if (waited == CUDA_ERROR_DEINITIALIZED) device.memory.no_guard_runs();
  const CUresult result = let_go(device, record.base, kGuardPatience);
  if (result == CUDA_ERROR_NOT_READY) {
    deferred_frees().add({record.base, record.id, nullptr, true});
    return CUDA_SUCCESS;
  }
  log::info("pool " + std::to_string(record.id) + " freed");
  return result;
}

// cuMemFreeAsync returns at once; the pool goes when the stream has come so far. The
// stream is ordered as for a piece of pool work, so that its event alone proves that all
// of that has finished which may touch the pool for a reason that the program doesn't
// know (a kernel with an old address in its parameters).
CUresult free_pool_in_order(Runtime& runtime, const vmm::PoolRecord& record, StreamRef stream,
                            SubmitRef refuse) {
  // As a graph's node it could only free what the graph allocates: the driver says so.
  if (is_capturing(stream)) return refuse();
  DeviceRuntime* const found = runtime.of(record);
  if (found == nullptr) return CUDA_SUCCESS;  // the end of its context frees it
  DeviceRuntime& device = *found;
  DeferredFree one{record.base, record.id, nullptr, false};
  {
    Submission submission(device);
    one.behind_all = submission.alone() && device.streams.lost() == 0 &&
                     device.memory.all_in_order(device.server.finished_epoch());
    StreamOrder::Place place;
    CUresult result = device.streams.order(stream, &place, submission.alone());
    if (result != CUDA_SUCCESS) return result;
    vmm::ContextScope current(runtime.driver(), place.context);
    result = runtime.driver().cuEventCreate(&one.event, CU_EVENT_DISABLE_TIMING);
    if (result != CUDA_SUCCESS) return result;
    result = runtime.driver().cuEventRecord(one.event, stream.explicit_handle());
    if (result != CUDA_SUCCESS) {
      runtime.driver().cuEventDestroy_v2(one.event);
      return result;
    }
  }
  deferred_frees().add(one);
  return CUDA_SUCCESS;
}

void finish_deferred_frees() noexcept {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return;
  std::list<DeferredFree> ready = deferred_frees().take(
      [&](const DeferredFree& one) { return has_come_to_its_free(*runtime, one); });
  while (!ready.empty()) {  // a free may wait for a release under way
    const bool gone = finish_free(*runtime, ready.front());
    deferred_frees().settle(&ready, gone);
  }
}

}  // namespace kvshim::preload
