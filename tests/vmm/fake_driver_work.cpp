// The fake driver's work: streams, copies, kernels; and contexts.
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/simulator/moving_copy.h"
#include "tests/vmm/fake_driver.h"
#include "tests/vmm/fake_driver_calls.h"
#include "tests/vmm/host_kernels.h"

namespace kvshim::vmm::testing {
namespace {

thread_local std::vector<CUcontext> contexts;
thread_local CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

}  // namespace

void FakeDriver::make_current(CUcontext context) {
  contexts.clear();
  if (context != nullptr) contexts.push_back(context);
}

CUstream FakeDriver::make_stream() {
  auto made = std::make_unique<Stream>();
  Stream* stream = made.get();
  stream->worker = std::thread([this, stream] { run(*stream); });
  std::lock_guard lock(mutex_);
  streams_.push_back(std::move(made));
  return reinterpret_cast<CUstream>(stream);
}

void FakeDriver::run(Stream& stream) {
  std::unique_lock lock(stream.mutex);
  for (;;) {
    stream.changed.wait(lock,
                        [&] { return stream.ending || (!stream.held && !stream.queue.empty()); });
    if (stream.queue.empty() && stream.ending) return;
    if (stream.queue.empty()) continue;
    const std::function<void()> work = stream.queue.front().work;
    lock.unlock();
    work();
    lock.lock();
    stream.queue.pop_front();
    stream.changed.notify_all();
  }
}

void FakeDriver::enqueue(CUstream handle, std::vector<Range> ranges, std::function<void()> work,
                         bool guard) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  {
    std::lock_guard lock(stream.mutex);
    stream.queue.push_back({std::move(ranges), std::move(work), guard});
  }
  stream.changed.notify_all();
}

void FakeDriver::hold(CUstream handle, bool held) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  {
    std::lock_guard lock(stream.mutex);
    stream.held = held;
  }
  stream.changed.notify_all();
}

bool FakeDriver::drain(CUstream handle) {
  auto& stream = *reinterpret_cast<Stream*>(handle);
  std::unique_lock lock(stream.mutex);
  return stream.changed.wait_for(lock, std::chrono::seconds(10),
                                 [&] { return stream.queue.empty(); });
}

// I2, I4: nothing may lose its mapping while work that touches it is unfinished.
void FakeDriver::check_no_work(std::uint64_t begin, std::uint64_t end, const char* what) {
  for (const auto& stream : streams_) {
    std::lock_guard lock(stream->mutex);
    for (const Operation& operation : stream->queue) {
      if (operation.guard) break;
      for (const Range& range : operation.ranges) {
        if (range.meets(begin, end)) {
          violation(std::string(what) + " of " + hex(begin) + " under unfinished work");
          return;
        }
      }
    }
  }
}

struct FakeDriver::WorkFunctions {
  // As the driver, these look at the mappings when they are called.
  static bool hole(std::uint64_t begin, std::uint64_t bytes) {
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    for (std::uint64_t at = begin; at < begin + bytes;) {
      const auto it = driver.mapping_at(at);
      if (it == driver.mappings_.end() || !it->second.accessible) return true;
      at = it->first + it->second.bytes;
    }
    return false;
  }

  static bool in_host(std::uint64_t address) {
    FakeDriver& driver = self();
    std::lock_guard lock(driver.mutex_);
    const auto it = driver.mapping_at(address);
    return it != driver.mappings_.end() && driver.handles_.at(it->second.handle).host;
  }

  static CUresult memset_async(CUdeviceptr address, unsigned char value, size_t bytes,
                               CUstream stream) {
    KVSHIM_INJECT(cuMemsetD8Async);
    if (hole(address, bytes)) return CUDA_ERROR_INVALID_VALUE;
    self().enqueue(stream, {{address, address + bytes}},
                   [=] { std::memset(reinterpret_cast<void*>(address), value, bytes); });
    return CUDA_SUCCESS;
  }

  static CUresult copy_async(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    KVSHIM_INJECT(cuMemcpyDtoDAsync_v2);
    if (hole(to, bytes) || hole(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    const bool moves = in_host(to) != in_host(from);
    self().enqueue(stream, {{to, to + bytes}, {from, from + bytes}}, [=] {
      auto* const target = reinterpret_cast<void*>(to);
      const auto* const source = reinterpret_cast<const void*>(from);
      if (moves) return simulator::copy_beside_work(target, source, bytes);
      std::memcpy(target, source, bytes);
    });
    return CUDA_SUCCESS;
  }

  static CUresult wait_value(CUstream stream, CUdeviceptr address, cuuint32_t value,
                             unsigned flags) {
    KVSHIM_INJECT(cuStreamWaitValue32_v2);
    if (flags != CU_STREAM_WAIT_VALUE_GEQ) return CUDA_ERROR_INVALID_VALUE;
    self().enqueue(stream, {}, [=] {
      const std::atomic_ref word(*reinterpret_cast<std::uint32_t*>(address));
      while (static_cast<std::int32_t>(word.load() - value) < 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
      }
    });
    return CUDA_SUCCESS;
  }

  static CUresult stream_create(CUstream* stream, unsigned, int) {
    KVSHIM_INJECT(cuStreamCreateWithPriority);
    *stream = self().make_stream();
    return CUDA_SUCCESS;
  }

  static CUresult stream_destroy(CUstream) {
    KVSHIM_INJECT(cuStreamDestroy_v2);
    return CUDA_SUCCESS;  // its thread ends with the driver
  }

  static CUresult stream_query(CUstream handle) {
    KVSHIM_INJECT(cuStreamQuery);
    auto& stream = *reinterpret_cast<Stream*>(handle);
    std::lock_guard lock(stream.mutex);
    return stream.queue.empty() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  }

  static CUresult is_capturing(CUstream, CUstreamCaptureStatus* status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
  }

  static CUresult library_load(CUlibrary* library, const void*, CUjit_option*, void**, unsigned,
                               CUlibraryOption*, void**, unsigned) {
    KVSHIM_INJECT(cuLibraryLoadData);
    *library = reinterpret_cast<CUlibrary>(&self());
    return CUDA_SUCCESS;
  }
  static CUresult library_unload(CUlibrary) {
    KVSHIM_INJECT(cuLibraryUnload);
    return CUDA_SUCCESS;
  }
  static CUresult library_kernel(CUkernel* kernel, CUlibrary, const char* name) {
    KVSHIM_INJECT(cuLibraryGetKernel);
    *kernel = reinterpret_cast<CUkernel>(const_cast<HostKernel*>(find_host_kernel(name)));
    return *kernel != nullptr ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
  }
  static CUresult launch(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned, unsigned,
                         unsigned, unsigned, unsigned, CUstream stream, void** params, void**) {
    KVSHIM_INJECT(cuLaunchKernel);
    const auto& kernel = *reinterpret_cast<const HostKernel*>(function);
    HostLaunch launched = kernel.prepare(params[0]);
    self().enqueue(
        stream, std::move(launched.ranges),
        [run = std::move(launched.run), grid_x, grid_y] { run(grid_x, grid_y); }, launched.guard);
    return CUDA_SUCCESS;
  }

  static CUresult get_current(CUcontext* out) {
    KVSHIM_INJECT(cuCtxGetCurrent);
    *out = contexts.empty() ? nullptr : contexts.back();
    return CUDA_SUCCESS;
  }
  static CUresult set_current(CUcontext value) {
    KVSHIM_INJECT(cuCtxSetCurrent);
    if (!contexts.empty()) contexts.pop_back();
    contexts.push_back(value);
    return CUDA_SUCCESS;
  }
  static CUresult push_current(CUcontext value) {
    KVSHIM_INJECT(cuCtxPushCurrent_v2);
    contexts.push_back(value);
    return CUDA_SUCCESS;
  }
  static CUresult pop_current(CUcontext* out) {
    KVSHIM_INJECT(cuCtxPopCurrent_v2);
    *out = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
  }
  static CUresult exchange_mode(CUstreamCaptureMode* mode) {
    KVSHIM_INJECT(cuThreadExchangeStreamCaptureMode);
    std::swap(*mode, capture_mode);
    return CUDA_SUCCESS;
  }
};

void FakeDriver::fill_work_api() {
  api_.cuMemsetD8Async = WorkFunctions::memset_async;
  api_.cuMemcpyDtoDAsync_v2 = WorkFunctions::copy_async;
  api_.cuStreamWaitValue32_v2 = WorkFunctions::wait_value;
  api_.cuStreamCreateWithPriority = WorkFunctions::stream_create;
  api_.cuStreamDestroy_v2 = WorkFunctions::stream_destroy;
  api_.cuStreamQuery = WorkFunctions::stream_query;
  api_.cuStreamIsCapturing = WorkFunctions::is_capturing;
  api_.cuLibraryLoadData = WorkFunctions::library_load;
  api_.cuLibraryUnload = WorkFunctions::library_unload;
  api_.cuLibraryGetKernel = WorkFunctions::library_kernel;
  api_.cuLaunchKernel = WorkFunctions::launch;
  api_.cuCtxGetCurrent = WorkFunctions::get_current;
  api_.cuCtxSetCurrent = WorkFunctions::set_current;
  api_.cuCtxPushCurrent_v2 = WorkFunctions::push_current;
  api_.cuCtxPopCurrent_v2 = WorkFunctions::pop_current;
  api_.cuThreadExchangeStreamCaptureMode = WorkFunctions::exchange_mode;
}

}  // namespace kvshim::vmm::testing
