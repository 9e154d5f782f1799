// Allocation and freeing: recognised allocations become pools (freeing.cpp: pools are
// freed as the driver would free them), cuMemGetInfo counts own pools at full size.
#include "preload/allocation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "observe/log.h"
#include "preload/deferred_frees.h"
#include "preload/escape.h"
#include "preload/freeing.h"
#include "preload/graph_capture.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/neighbours.h"
#include "preload/plain_allocation.h"
#include "preload/plain_memory.h"
#include "preload/private_view.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "preload/status.h"
#include "vmm/context_scope.h"
#include "vmm/steady_figure.h"

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
    if (result != CUDA_ERROR_OUT_OF_MEMORY || !deferred_frees().any() ||
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

/// Where a stream-ordered allocation is asked for.
struct StreamOrdered {
  StreamRef stream;
  std::optional<CUmemoryPool> memory_pool;  // none: the current one of the stream's GPU
};

/// Why a pool can't take the place of an allocation in stream order: it would be in other
/// memory, or the driver refuses it. Null: it can. REQUIRES that nothing is being captured.
const char* obstacle_of(const StreamOrdered& order, CUcontext current, CUdevice device) {
  const RealDriver& driver = real();
  CUcontext context = nullptr;
  if (driver.cuStreamGetCtx == nullptr ||
      driver.cuStreamGetCtx(order.stream.explicit_handle(), &context) != CUDA_SUCCESS) {
    return "its stream is not known to the driver";
  }
  if (context != current) return "its stream is of another context";
  if (!order.memory_pool) return nullptr;
  CUmemoryPool standard = nullptr;
  if (driver.cuDeviceGetDefaultMemPool != nullptr &&
      driver.cuDeviceGetDefaultMemPool(&standard, device) == CUDA_SUCCESS &&
      *order.memory_pool == standard) {
    return nullptr;
  }
  // Its memory may be the host's, another GPU's, or meant for other processes.
  return "it comes from a memory pool that is not the GPU's default one";
}

/// True: `*result` is the answer (a pool, or the honest refusal). False: the
/// allocation is left to the driver, for its errors as well.
bool try_pool(const char* entry_point, CUdeviceptr* address, std::size_t bytes, CUresult* result,
              const std::optional<StreamOrdered>& order = std::nullopt) {
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
  if (order) {
    if (const char* obstacle = obstacle_of(*order, context, device_index)) {
      say_once("recognised a pool of " + mebibytes(bytes) +
               " but it stays a plain allocation: " + obstacle);
      return false;
    }
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
    const ViewDifference has = view_difference(*runtime, device_index);
    if (has.limit != 0 && (bytes > has.limit ||
                           has.pools + has.other + vmm::round_up_to_granule(bytes) > has.limit)) {
      static std::atomic<std::uint64_t> said{0};  // for that limit
      if (said.exchange(has.limit) != has.limit) {
        log::warning("a pool of " + mebibytes(bytes) + " was refused: with " +
                     mebibytes(has.pools + has.other) +
                     " that it has, the process would be above its limit of " +
                     mebibytes(has.limit) + " (option limit, or what kvshim limit set)");
      }
    } else {
      log::info("a pool of " + mebibytes(bytes) +
                " would not have fitted as a plain allocation: out of memory, as without the shim");
    }
    return true;
  }
  if (*result != CUDA_SUCCESS) {
    say_once("recognised a pool but it stays a plain allocation: CUDA error " +
             std::to_string(*result) + " while it was made");
    return false;
  }
  forget_arguments(record->base, record->mapped_bytes);
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

}  // namespace

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
    const StreamOrdered order{{stream, StreamFlavor::kLegacy}, std::nullopt};
    if (try_pool("cuMemAllocAsync", address, bytes, &result, order)) return result;
    return allocate_plain(address, bytes, [&] {
      before_wait(StreamRef{stream, StreamFlavor::kLegacy});
      return real().cuMemAllocAsync(address, bytes, stream);
    });
  });
}

CUresult hook_cuMemAllocAsync_ptsz(CUdeviceptr* address, size_t bytes, CUstream stream) noexcept {
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    const StreamOrdered order{{stream, StreamFlavor::kPerThread}, std::nullopt};
    if (try_pool("cuMemAllocAsync", address, bytes, &result, order)) return result;
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
    const StreamOrdered order{{stream, StreamFlavor::kLegacy}, pool};
    if (try_pool("cuMemAllocFromPoolAsync", address, bytes, &result, order)) return result;
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
    const StreamOrdered order{{stream, StreamFlavor::kPerThread}, pool};
    if (try_pool("cuMemAllocFromPoolAsync", address, bytes, &result, order)) return result;
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
      std::uint64_t elsewhere = 0;
      if (vmm::read_beside([&] { return real().cuMemGetInfo_v2(&left, &all); },
                           [&] { return elastic_elsewhere(*runtime, index); },
                           &elsewhere) != CUDA_SUCCESS) {
        return result;
      }
      std::uint64_t seen = std::min<std::uint64_t>(left + elsewhere, all);
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
