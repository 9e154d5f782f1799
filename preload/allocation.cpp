// Allocation and freeing: recognised allocations become pools, pools are freed
// as the driver would free them, cuMemGetInfo counts own pools at full size.
#include "preload/allocation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "observe/log.h"
#include "preload/graph_capture.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/neighbours.h"
#include "preload/plain_allocation.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "preload/status.h"
#include "preload/submission.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

std::atomic<std::uint64_t> managed_count{0}, managed_total{0};

std::string mebibytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// Once for each text: the same obstacle meets every allocation.
void say_once(const std::string& text) {
  static std::mutex mutex;
  static auto* said = new std::vector<std::string>;
  {
    std::lock_guard lock(mutex);
    for (const std::string& earlier : *said) {
      if (earlier == text) return;
    }
    said->push_back(text);
  }
  log::warning(text);
}

// --- pools ------------------------------------------------------------------------

bool any_deferred_free();

// The zero pages that every pool maps, and what the guards need.
constexpr std::uint64_t kFirstNeeds = std::uint64_t{96} << 20;

// A pool whose stream-ordered free is under way still counts. The driver would
// hand its memory on at once; here it is waited for, a moment at most: the stream
// may wait for something that this thread has yet to do.
CUresult allocate_pool(Runtime& runtime, DeviceRuntime& device, std::size_t bytes,
                       const std::string& group, CUcontext context,
                       const vmm::PoolRecord** record) {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  bool pressed = false;
  for (;;) {
    CUresult result = device.memory.allocate(bytes, group, context, record);
    std::size_t free = 0, total = 0;
    if (result == CUDA_ERROR_OUT_OF_MEMORY && !std::exchange(pressed, true) &&
        device.memory.memory_info(&free, &total) == CUDA_SUCCESS && free >= bytes) {
      // It would have fitted: the GPU is full of what pools hold.
      result = press_for(runtime, device.memory.device(), kFirstNeeds,
                         [&] { return device.memory.allocate(bytes, group, context, record); });
    }
    if (result != CUDA_ERROR_OUT_OF_MEMORY || !any_deferred_free() ||
        std::chrono::steady_clock::now() > patience) {
      return result;
    }
    {
      vmm::RelaxedCaptureScope relaxed(runtime.driver());
      finish_deferred_frees();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

/// True: `*result` is the answer (a pool, or the honest refusal). False: the
/// allocation is left to the driver.
bool try_pool(const char* entry_point, CUdeviceptr* address, std::size_t bytes, CUresult* result) {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr || address == nullptr || bytes < runtime->recognizer().threshold()) {
    return false;
  }
  // The driver's own rules for allocations during captures are subtle; an
  // engine does not allocate its pool in one.
  if (any_capture()) return false;
  CUcontext context = nullptr;
  CUdevice device_index = 0;
  if (runtime->driver().cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr ||
      runtime->driver().cuCtxGetDevice(&device_index) != CUDA_SUCCESS) {
    return false;
  }
  heuristics::AllocationRequest request;
  request.bytes = bytes;
  request.device = device_index;
  request.entry_point = entry_point;
  request.call_site = heuristics::capture_call_site();
  const heuristics::Decision decision = runtime->recognizer().decide(request);
  if (!decision.pool) {
    log::debug(std::string(entry_point) + " of " + mebibytes(bytes) +
               " left alone: " + decision.reason);
    const std::string warning = runtime->recognizer().left_alone_warning(runtime->pools_made());
    if (!warning.empty()) log::warning(warning);
    return false;
  }
  std::string why;
  DeviceRuntime* device = runtime->device_for_pool(context, &why);
  std::size_t free = 0, total = 0;
  if (device == nullptr && runtime->driver().cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS &&
      free < kFirstNeeds) {
    press_for(*runtime, device_index, kFirstNeeds, [&] {
      device = runtime->device_for_pool(context, &why);
      return device != nullptr ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    });
  }
  if (device == nullptr) {
    say_once("recognised a pool of " + mebibytes(bytes) +
             " but it stays a plain allocation: " + why);
    return false;
  }
  const vmm::PoolRecord* record = nullptr;
  *result = allocate_pool(*runtime, *device, bytes, decision.group, context, &record);
  if (*result == CUDA_ERROR_OUT_OF_MEMORY) {
    log::info("a pool of " + mebibytes(bytes) +
              " would not have fitted as a plain allocation: out of memory, as without the shim");
    return true;
  }
  if (*result != CUDA_SUCCESS) {
    say_once("recognised a pool but it stays a plain allocation: CUDA error " +
             std::to_string(*result) + " while it was made");
    return false;
  }
  *address = record->base;
  runtime->count_pool();
  runtime->remember_reason(record->id, decision.reason);
  log::info("pool " + std::to_string(record->id) + ": " + mebibytes(bytes) + " on GPU " +
            std::to_string(device_index) + " because " + decision.reason + "; " +
            mebibytes(record->mapped_bytes) + " of addresses, 2 to 32 MiB pages, host budget " +
            mebibytes(device->memory.host_budget()));
  start_status();
  return true;
}

const vmm::PoolRecord* pool_at_base(CUdeviceptr address) {
  if (!in_arena(address)) return nullptr;
  const Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  return record != nullptr && record->base == address ? record : nullptr;
}

struct DeferredFree {
  CUdeviceptr base;
  std::uint64_t pool;  // id: another may lie there by then
  CUevent event;       // where its stream has to get; null: nowhere
  bool behind_all;     // behind all pool work that was submitted before
};
std::mutex deferred_mutex;
auto& deferred = *new std::vector<DeferredFree>;  // leaked, see escape.cpp
std::size_t being_freed = 0;                      // taken out of the list, not yet gone

bool any_deferred_free() {
  std::lock_guard lock(deferred_mutex);
  return !deferred.empty() || being_freed != 0;
}

// As cuMemFree waits: for everything that the pool's GPU has to do, whatever context
// is current. During a capture elsewhere a context synchronisation would invalidate
// it, so the pool's own work is waited for by queries, unless it will never end: after
// an error, which the own stream shows as every stream does. NOT_READY: some of it can't
// be asked about (of a stream that was destroyed).
CUresult wait_as_free_does(Runtime& runtime, DeviceRuntime& device, const vmm::PoolRecord& record) {
  vmm::ContextScope current(runtime.driver(), record.context);
  if (!any_capture()) return runtime.driver().cuCtxSynchronize();
  vmm::RelaxedCaptureScope relaxed(runtime.driver());
  while (!device.streams.all_but_lost_finished()) {
    const CUresult state = runtime.driver().cuStreamQuery(device.memory.kernels().stream());
    if (state != CUDA_SUCCESS && state != CUDA_ERROR_NOT_READY) return state;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return device.streams.lost() == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult free_pool(Runtime& runtime, const vmm::PoolRecord& record) {
  DeviceRuntime& device = *runtime.of(record);
  const CUresult waited = wait_as_free_does(runtime, device, record);
  if (waited == CUDA_ERROR_NOT_READY) {
    std::lock_guard lock(deferred_mutex);
    deferred.push_back({record.base, record.id, nullptr, false});
    return CUDA_SUCCESS;
  }
  if (waited != CUDA_SUCCESS && waited != CUDA_ERROR_DEINITIALIZED) return waited;
  vmm::Releaser::Pause pause(device.releaser);
  const std::uint64_t id = record.id;
  const CUresult result = device.memory.free(record.base);
  log::info("pool " + std::to_string(id) + " freed");
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
  DeviceRuntime& device = *runtime.of(record);
  DeferredFree one{record.base, record.id, nullptr, false};
  {
    Submission submission(device);
    one.behind_all = submission.alone();
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
  std::lock_guard lock(deferred_mutex);
  deferred.push_back(one);
  return CUDA_SUCCESS;
}

bool has_come_to_its_free(Runtime& runtime, const DeferredFree& one) {
  const vmm::PoolRecord* record = pool_at_base(one.base);
  if (record == nullptr || record->id != one.pool) return true;
  DeviceRuntime& device = *runtime.of(*record);
  vmm::ContextScope current(runtime.driver(), device.memory.context());
  return (one.event == nullptr || runtime.driver().cuEventQuery(one.event) == CUDA_SUCCESS) &&
         (one.behind_all || device.streams.finished());
}

void finish_free(Runtime& runtime, const DeferredFree& one) {
  if (one.event != nullptr) runtime.driver().cuEventDestroy_v2(one.event);
  const vmm::PoolRecord* record = pool_at_base(one.base);
  if (record == nullptr || record->id != one.pool) return;  // its context has ended
  DeviceRuntime& device = *runtime.of(*record);
  vmm::ContextScope current(runtime.driver(), device.memory.context());
  vmm::Releaser::Pause pause(device.releaser);
  device.memory.free(one.base);
}

}  // namespace

void finish_deferred_frees() noexcept {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return;
  std::vector<DeferredFree> ready;
  {
    std::lock_guard lock(deferred_mutex);
    const auto first = std::stable_partition(
        deferred.begin(), deferred.end(),
        [&](const DeferredFree& one) { return !has_come_to_its_free(*runtime, one); });
    ready.assign(first, deferred.end());
    deferred.erase(first, deferred.end());
    being_freed += ready.size();
  }
  for (const DeferredFree& one : ready) {  // a free may wait for a release under way
    finish_free(*runtime, one);
    std::lock_guard lock(deferred_mutex);
    --being_freed;
  }
}

std::uint64_t managed_bytes() noexcept { return managed_total.load(); }

CUresult hook_cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    if (try_pool("cuMemAlloc_v2", address, bytes, &result)) return result;
    return allocate_plain(address, bytes, [&] { return real().cuMemAlloc_v2(address, bytes); });
  });
}

CUresult hook_cuMemAllocPitch_v2(CUdeviceptr* address, size_t* pitch, size_t width, size_t height,
                                 unsigned int element) noexcept {
  return at_boundary([&] {
    // The pitch that the driver gives: a multiple of 512 bytes on every GPU
    // (texture alignment), so that a pool can take its place.
    const std::size_t own_pitch = (width + 511) / 512 * 512;
    CUresult result = CUDA_SUCCESS;
    const bool sane = pitch != nullptr && width != 0 && height != 0 &&
                      (element == 4 || element == 8 || element == 16) &&
                      own_pitch <= SIZE_MAX / height;
    if (sane && try_pool("cuMemAllocPitch_v2", address, own_pitch * height, &result)) {
      if (result == CUDA_SUCCESS) *pitch = own_pitch;
      return result;
    }
    return allocate_plain(address, sane ? own_pitch * height : 0, [&] {
      return real().cuMemAllocPitch_v2(address, pitch, width, height, element);
    });
  });
}

// In stream order: the driver may make the stream wait for the one that freed the memory.

CUresult hook_cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    if (try_pool("cuMemAllocAsync", address, bytes, &result)) return result;
    return allocate_plain(address, bytes, [&] {
      before_wait(StreamRef{stream, StreamFlavor::kLegacy});
      return real().cuMemAllocAsync(address, bytes, stream);
    });
  });
}

CUresult hook_cuMemAllocAsync_ptsz(CUdeviceptr* address, size_t bytes, CUstream stream) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    if (try_pool("cuMemAllocAsync", address, bytes, &result)) return result;
    return allocate_plain(address, bytes, [&] {
      before_wait(StreamRef{stream, StreamFlavor::kPerThread});
      return real().cuMemAllocAsync_ptsz(address, bytes, stream);
    });
  });
}

CUresult hook_cuMemAllocFromPoolAsync(CUdeviceptr* address, size_t bytes, CUmemoryPool pool,
                                      CUstream stream) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    if (try_pool("cuMemAllocFromPoolAsync", address, bytes, &result)) return result;
    return allocate_plain(address, bytes, [&] {
      before_wait(StreamRef{stream, StreamFlavor::kLegacy});
      return real().cuMemAllocFromPoolAsync(address, bytes, pool, stream);
    });
  });
}

CUresult hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* address, size_t bytes, CUmemoryPool pool,
                                           CUstream stream) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    if (try_pool("cuMemAllocFromPoolAsync", address, bytes, &result)) return result;
    return allocate_plain(address, bytes, [&] {
      before_wait(StreamRef{stream, StreamFlavor::kPerThread});
      return real().cuMemAllocFromPoolAsync_ptsz(address, bytes, pool, stream);
    });
  });
}

CUresult hook_cuMemAllocManaged(CUdeviceptr* address, size_t bytes, unsigned int flags) noexcept {
  const CUresult result = real().cuMemAllocManaged(address, bytes, flags);
  if (result == CUDA_SUCCESS) {
    managed_count.fetch_add(1);
    managed_total.fetch_add(bytes);
  }
  return result;
}

CUresult hook_cuMemFree_v2(CUdeviceptr address) noexcept {
  return at_boundary([&] {
    const vmm::PoolRecord* record = pool_at_base(address);
    if (record != nullptr) return free_pool(*Runtime::get(), *record);
    uncount_plain(address);
    return real().cuMemFree_v2(address);
  });
}

CUresult hook_cuMemFreeAsync(CUdeviceptr address, CUstream stream) noexcept {
  return at_boundary([&] {
    const vmm::PoolRecord* record = pool_at_base(address);
    if (record == nullptr) {
      uncount_plain(address);
      return real().cuMemFreeAsync(address, stream);
    }
    return free_pool_in_order(*Runtime::get(), *record, {stream, StreamFlavor::kLegacy},
                              [&] { return real().cuMemFreeAsync(address, stream); });
  });
}

CUresult hook_cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) noexcept {
  return at_boundary([&] {
    const vmm::PoolRecord* record = pool_at_base(address);
    if (record == nullptr) {
      uncount_plain(address);
      return real().cuMemFreeAsync_ptsz(address, stream);
    }
    return free_pool_in_order(*Runtime::get(), *record, {stream, StreamFlavor::kPerThread},
                              [&] { return real().cuMemFreeAsync_ptsz(address, stream); });
  });
}

CUresult hook_cuMemGetInfo_v2(size_t* free, size_t* total) noexcept {
  return at_boundary([&] {
    const CUresult result = real().cuMemGetInfo_v2(free, total);
    Runtime* runtime = Runtime::get();
    if (result != CUDA_SUCCESS || runtime == nullptr || free == nullptr ||
        runtime->options().memory_view == config::MemoryView::kPhysical) {
      return result;
    }
    CUdevice index = 0;
    if (runtime->driver().cuCtxGetDevice(&index) == CUDA_SUCCESS) {
      if (DeviceRuntime* device = runtime->device(index)) {
        std::size_t all = 0;
        return device->memory.memory_info(free, total != nullptr ? total : &all);
      }
      // The same view before the first pool.
      std::size_t all = 0, left = 0;
      if (real().cuMemGetInfo_v2(&left, &all) != CUDA_SUCCESS) return result;
      std::uint64_t seen = std::min<std::uint64_t>(left + elastic_elsewhere(*runtime, index), all);
      if (const std::uint64_t limit = runtime->options().limit.of(all); limit != 0) {
        all = std::min<std::size_t>(all, limit);
        seen =
            std::min<std::uint64_t>(seen, all - std::min<std::uint64_t>(all, plain_bytes(index)));
      }
      *free = seen;
      if (total != nullptr) *total = all;
    }
    return result;
  });
}

}  // namespace kvshim::preload
