#include "preload/gate.h"

#include <algorithm>

#include "preload/engine_memory.h"
#include "preload/graph_capture.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "preload/submission.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

CUresult submit_to(Runtime& runtime, std::span<const Touched> touched, std::size_t next,
                   StreamRef stream, const vmm::LinearWrite* linear, const vmm::TableRead* read,
                   SubmitRef submit) {
  if (next == touched.size()) return submit();
  DeviceRuntime& device = *touched[next].device;
  Submission submission(device);
  if (CurrentWork* const work = CurrentWork::get(); next == 0 && work != nullptr) work->begins();
  if (!touched[next].read_anywhere.empty()) {
    device.memory.reads_anywhere(touched[next].read_anywhere, device.gate.epoch());
  }
  // The linear form belongs to the device of its pool.
  const vmm::LinearWrite* own = nullptr;
  if (linear != nullptr && linear->destinations != 0) {
    const vmm::PoolRecord* record = runtime.find(linear->destination[0].pool_begin);
    if (record != nullptr && runtime.of(*record) == &device) own = linear;
  }
  StreamOrder::Place place;
  CUresult result = put_in_front(device, stream, touched[next].written, own, &place);
  if (result == CUDA_SUCCESS) {
    if (read != nullptr) mark_in_front(device, stream, *read, place);
    result = submit_to(runtime, touched, next + 1, stream, linear, read, submit);
  }
  device.streams.submitted(stream, place);
  return result;
}

}  // namespace

std::optional<PoolView> find_pool(CUdeviceptr address) noexcept {
  if (!in_arena(address)) return std::nullopt;
  const Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  if (record == nullptr) return std::nullopt;
  return PoolView{record->base,    record->mapped_bytes, record->device,
                  record->context, record->id,           record->bytes};
}

std::vector<PoolView> pools_in(CUdeviceptr address, std::size_t bytes) {
  std::vector<PoolView> found;
  if (!meets_arena(address, bytes)) return found;
  if (const std::optional<PoolView> first = find_pool(address)) {
    found.push_back(*first);
    if (bytes <= first->base + first->bytes - address) return found;
  }
  bytes = std::min<std::size_t>(bytes, ~address);  // a garbage size must not wrap around
  const Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return found;
  // A range over several pools is rare (old launches that name nothing).
  for (DeviceRuntime* device : runtime->devices()) {
    for (const vmm::PoolFigures& pool : device->memory.pools()) {
      if (pool.base >= address + bytes || pool.base + pool.bytes <= address) continue;
      const std::optional<PoolView> view = find_pool(pool.base);
      if (view && (found.empty() || found[0].buffer_id != view->buffer_id)) found.push_back(*view);
    }
  }
  return found;
}

CUresult run_work(StreamRef stream, std::span<const Access> accesses,
                  const vmm::LinearWrite* linear, SubmitRef submit, const vmm::TableRead* read) {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return submit();
  const std::vector<Touched> touched = by_device(*runtime, accesses);
  if (touched.empty()) return submit();
  CurrentWork now(touched, stream);
  CurrentWorkScope scope(now);
  return submit_to(*runtime, touched, 0, stream, linear, read, submit);
}

CUresult run_fill(StreamRef stream, CUdeviceptr address, std::size_t bytes, bool zero,
                  SubmitRef submit) {
  Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  const Access access{address, bytes, true};
  if (record == nullptr || !zero || bytes == 0 ||
      bytes > record->base + record->mapped_bytes - address) {
    return run_work(stream, std::span(&access, 1), nullptr, submit);
  }
  const std::vector<Touched> touched = by_device(*runtime, std::span(&access, 1));
  if (touched.size() != 1) return run_work(stream, std::span(&access, 1), nullptr, submit);
  DeviceRuntime& device = *touched[0].device;
  Submission submission(device);
  bool quiet = false;
  std::uint64_t capture = 0;
  {
    vmm::RelaxedCaptureScope relaxed(runtime->driver());
    quiet = submission.alone() && !device.streams.capturing(stream, &capture) &&
            device.streams.finished();
  }
  CurrentWork now(touched, stream);
  CurrentWorkScope scope(now);
  StreamOrder::Place place;
  if (!quiet) {
    CUresult result = put_in_front(device, stream, touched[0].written, nullptr, &place);
    if (result == CUDA_SUCCESS) result = submit();
    device.streams.submitted(stream, place);
    return result;
  }
  // Nothing unfinished can write the pool, and only this thread submits: what
  // is absent is zero and stays so; what is present is filled for real.
  CUresult result = device.streams.order(stream, &place);
  if (result != CUDA_SUCCESS) return result;
  std::uint64_t filled = 0;
  for (const vmm::AbiRun& run : device.memory.present_runs(address, bytes)) {
    const vmm::Arena& arena = device.memory.arena();
    const CUdeviceptr begin = std::max<CUdeviceptr>(address, arena.address(run.first));
    const CUdeviceptr end =
        std::min<CUdeviceptr>(address + bytes, arena.address(run.first + run.count));
    device.memory.written_unasked(std::span(&run, 1));
    result = runtime->driver().cuMemsetD8Async(begin, 0, end - begin, stream.explicit_handle());
    if (result != CUDA_SUCCESS) break;
    filled += end - begin;
  }
  if (filled != 0 || result != CUDA_SUCCESS) device.streams.submitted(stream, place);
  vmm::Statistics& statistics = device.memory.statistics();
  if (filled == 0) statistics.dropped_fills.fetch_add(1, std::memory_order_relaxed);
  statistics.dropped_fill_bytes.fetch_add(bytes - filled, std::memory_order_relaxed);
  return result;
}

void comes_in_no_order(std::span<const Access> accesses) {
  Runtime* const runtime = Runtime::get();
  if (runtime == nullptr) return;
  for (const Touched& touched : by_device(*runtime, accesses)) {
    touched.device->memory.comes_in_no_order(touched.device->gate.epoch());
  }
}

void before_stream_destroy(CUstream stream) noexcept {
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) {
      // Nothing can be ordered behind work that is lost.
      const auto about_to_lose = [device] {
        device->memory.comes_in_no_order(device->gate.epoch());
      };
      if (device->streams.before_destroy(stream, about_to_lose)) continue;
      device->memory.events().push(
          vmm::EventLevel::kWarning,
          "a stream was destroyed whose unfinished work can't be followed: no memory is released "
          "until the program waits for its whole context (cuCtxSynchronize)");
    }
  }
}

void before_capture(StreamRef stream) noexcept {
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) device->streams.before_capture(stream);
  }
}

void before_wait(std::optional<StreamRef> stream) noexcept {
  if (gate_detail::arena_bytes.load(std::memory_order_relaxed) == 0) return;
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) device->streams.before_wait(stream);
  }
}

// Nothing is kept while a stream captures: an event recorded before is still
// the newest fact about its executed work.
void after_capture(StreamRef) noexcept {}

void before_context_destroy(CUcontext context) noexcept {
  if (Runtime* runtime = Runtime::get()) runtime->context_ends(context);
  uncount_plain_of(context);
  uncount_arrays_of(context);
}

void after_context_destroy(CUcontext context) noexcept {
  if (Runtime* runtime = Runtime::get()) runtime->context_ended(context);
}

CUresult wait_for_context(CUcontext context, SubmitRef wait) noexcept {
  const Runtime* runtime = Runtime::get();
  const std::uint64_t until = StreamOrder::lost_so_far();
  if (runtime == nullptr || until == 0) return wait();
  const CUresult result = wait();
  if (result != CUDA_SUCCESS) return result;
  if (context == nullptr) runtime->driver().cuCtxGetCurrent(&context);
  for (DeviceRuntime* device : runtime->devices()) {
    device->streams.context_finished(context, until);
  }
  return result;
}

bool is_capturing(StreamRef stream) noexcept {
  if (!any_capture()) return false;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return real().cuStreamIsCapturing(stream.explicit_handle(), &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

}  // namespace kvshim::preload
