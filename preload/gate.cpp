#include "preload/gate.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "observe/log.h"
#include "preload/graph_capture.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

// One thread at a time orders its stream, launches guards and submits: else
// another stream's event could be recorded between a guard and its writer. The
// real call may wait (a full launch queue), which other submitters of pool work
// would then do as well; the fault server and the releasing thread never take
// this lock, so the GPU always gets on. The patience is for hosts that make one
// thread's submission the condition of another's: after it the order is given
// up, and a hole that is met is loud.
constexpr auto kPatience = std::chrono::seconds(10);

bool lock_with_patience(std::mutex& mutex) {
  if (mutex.try_lock()) return true;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    if (mutex.try_lock()) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(5));
  }
  return false;
}

class Submission {
 public:
  explicit Submission(DeviceRuntime& device) : device_(device) {
    device.releaser.restore_before_first_work();
    device.gate.enter();
    locked_ = lock_with_patience(device.submission);
    if (!locked_) {
      log::warning("a submission waited 10 s for another thread's; going on without the order "
                   "between streams");
    }
  }
  ~Submission() {
    if (locked_) device_.submission.unlock();
    device_.gate.leave();
  }
  /// Whether no other submission can be under way.
  bool alone() const { return locked_; }
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;

 private:
  DeviceRuntime& device_;
  bool locked_ = false;
};

struct Touched {
  DeviceRuntime* device = nullptr;
  std::vector<vmm::AbiRun> written;
};

// What of a range that meets the pool lies in it. Garbage sizes, which the driver
// will refuse, must not wrap around.
Access part_in(const PoolView& pool, const Access& range) {
  const CUdeviceptr begin = std::max(range.address, pool.base);
  const std::size_t to_pool_end = pool.base + pool.bytes - begin;
  const std::size_t to_range_end = range.bytes - (begin - range.address);
  return {begin, std::min(to_pool_end, to_range_end), range.writes};
}

// The pieces of the accesses by device: one in nearly every process. In the order
// of the devices' numbers, in which all threads enter their gates.
std::vector<Touched> by_device(Runtime& runtime, std::span<const Access> accesses) {
  std::vector<Touched> all;
  for (const Access& access : accesses) {
    if (!meets_arena(access.address, access.bytes)) continue;
    for (const PoolView& pool : pools_in(access.address, std::max<std::size_t>(access.bytes, 1))) {
      DeviceRuntime* device = runtime.device(pool.device);
      if (device == nullptr) continue;
      auto it = std::find_if(all.begin(), all.end(),
                             [&](const Touched& t) { return t.device == device; });
      if (it == all.end()) {
        const auto place = std::find_if(all.begin(), all.end(), [&](const Touched& t) {
          return t.device->memory.device() > pool.device;
        });
        it = all.insert(place, Touched{device, {}});
      }
      if (!access.writes || access.bytes == 0) continue;
      const Access piece = part_in(pool, access);
      const std::vector<vmm::AbiRun> runs =
          device->memory.granule_runs(piece.address, piece.bytes);
      it->written.insert(it->written.end(), runs.begin(), runs.end());
    }
  }
  return all;
}

// Launches on the stream what must run before the work. REQUIRES: Submission.
CUresult put_in_front(DeviceRuntime& device, StreamRef stream,
                      std::span<const vmm::AbiRun> written, const vmm::LinearWrite* linear) {
  CUresult result = device.streams.order(stream);
  const CUstream handle = stream.explicit_handle();
  if (result == CUDA_SUCCESS && !written.empty()) {
    result = device.memory.kernels().launch_fixed_guard(handle, written);
  }
  if (result == CUDA_SUCCESS && linear != nullptr) {
    result = device.memory.kernels().launch_linear_guard(handle, *linear);
  }
  return result;
}

// The submission that this thread is making, for retry_over_holes(): which
// ranges its work writes, and whether it is being captured.
struct Current {
  std::span<const Touched> touched;
  std::optional<StreamRef> stream;  // asked whether it captures only where that matters
  bool pinned = false;
};
thread_local Current* current = nullptr;

class CurrentScope {
 public:
  explicit CurrentScope(Current& now) : before_(current) { current = &now; }
  ~CurrentScope() { current = before_; }
  CurrentScope(const CurrentScope&) = delete;
  CurrentScope& operator=(const CurrentScope&) = delete;

 private:
  Current* before_;
};

bool all_written_present(const Current& now) {
  return std::all_of(now.touched.begin(), now.touched.end(), [](const Touched& t) {
    return t.device->memory.all_present(t.written);
  });
}

std::uint64_t failed_faults(const Current& now) {
  std::uint64_t sum = 0;
  for (const Touched& t : now.touched) sum += t.device->memory.statistics().failed_faults.load();
  return sum;
}

// A captured copy or fill runs at times the gate can't see, and the driver
// checks its destination when it is captured and when the graph is
// instantiated: its ranges stay present for good.
CUresult pin_for_capture(Current& now) {
  now.pinned = true;
  for (const Touched& t : now.touched) {
    if (t.written.empty()) continue;
    t.device->memory.pin(t.written);
    const StreamRef own{t.device->memory.kernels().stream(), StreamFlavor::kLegacy};
    const CUresult result = put_in_front(*t.device, own, t.written, nullptr);
    t.device->streams.submitted(own);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult submit_to(Runtime& runtime, std::span<const Touched> touched, std::size_t next,
                   StreamRef stream, const vmm::LinearWrite* linear, SubmitRef submit) {
  if (next == touched.size()) return submit();
  DeviceRuntime& device = *touched[next].device;
  Submission submission(device);
  // The linear form belongs to the device of its pool.
  const vmm::LinearWrite* own = nullptr;
  if (linear != nullptr && linear->destinations != 0) {
    const vmm::PoolRecord* record = runtime.find(linear->destination[0].pool_begin);
    if (record != nullptr && runtime.of(*record) == &device) own = linear;
  }
  CUresult result = put_in_front(device, stream, touched[next].written, own);
  if (result == CUDA_SUCCESS) {
    result = submit_to(runtime, touched, next + 1, stream, linear, submit);
  }
  device.streams.submitted(stream);
  return result;
}

std::mutex pins_mutex;
struct Pinned {
  std::uint64_t pool = 0;
  Access range;
};
auto& pins = *new std::unordered_map<PinId, std::vector<Pinned>>;  // leaked, see escape.cpp
PinId next_pin = 1;

void unpin_all(const Runtime& runtime, std::span<const Pinned> pieces) {
  for (const Pinned& piece : pieces) {
    const vmm::PoolRecord* record = runtime.find(piece.range.address);
    if (record == nullptr || record->id != piece.pool) continue;  // freed, with its pins
    runtime.of(*record)->memory.unpin(piece.pool, piece.range.address, piece.range.bytes);
  }
}

}  // namespace

std::optional<PoolView> find_pool(CUdeviceptr address) noexcept {
  if (!in_arena(address)) return std::nullopt;
  const Runtime* runtime = Runtime::get();
  const vmm::PoolRecord* record = runtime != nullptr ? runtime->find(address) : nullptr;
  if (record == nullptr) return std::nullopt;
  return PoolView{record->base, record->mapped_bytes, record->device, record->context, record->id,
                  record->bytes};
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
                  const vmm::LinearWrite* linear, SubmitRef submit) {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return submit();
  const std::vector<Touched> touched = by_device(*runtime, accesses);
  if (touched.empty()) return submit();
  Current now{touched, stream, false};
  CurrentScope scope(now);
  return submit_to(*runtime, touched, 0, stream, linear, submit);
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
  DeviceRuntime& device = *runtime->of(*record);
  const std::vector<Touched> touched = by_device(*runtime, std::span(&access, 1));
  if (touched.size() != 1) return run_work(stream, std::span(&access, 1), nullptr, submit);
  Submission submission(device);
  bool quiet = false;
  std::uint64_t capture = 0;
  {
    vmm::RelaxedCaptureScope relaxed(runtime->driver());
    quiet = submission.alone() && !device.streams.capturing(stream, &capture) &&
            device.streams.finished();
  }
  Current now{touched, stream, false};
  CurrentScope scope(now);
  if (!quiet) {
    CUresult result = put_in_front(device, stream, touched[0].written, nullptr);
    if (result == CUDA_SUCCESS) result = submit();
    device.streams.submitted(stream);
    return result;
  }
  // Nothing unfinished can write the pool, and only this thread submits: what
  // is absent is zero and stays so; what is present is filled for real.
  CUresult result = CUDA_SUCCESS;
  std::uint64_t filled = 0;
  for (const vmm::AbiRun& run : device.memory.present_runs(address, bytes)) {
    const vmm::Arena& arena = device.memory.arena();
    const CUdeviceptr begin = std::max<CUdeviceptr>(address, arena.address(run.first));
    const CUdeviceptr end =
        std::min<CUdeviceptr>(address + bytes, arena.address(run.first + run.count));
    result = runtime->driver().cuMemsetD8Async(begin, 0, end - begin, stream.explicit_handle());
    if (result != CUDA_SUCCESS) break;
    filled += end - begin;
  }
  if (filled != 0 || result != CUDA_SUCCESS) device.streams.submitted(stream);
  vmm::Statistics& statistics = device.memory.statistics();
  if (filled == 0) statistics.dropped_fills.fetch_add(1, std::memory_order_relaxed);
  statistics.dropped_fill_bytes.fetch_add(bytes - filled, std::memory_order_relaxed);
  return result;
}

// Measured (docs/results): the driver refuses, with INVALID_VALUE and without
// effect, a copy or a fill whose destination is a hole or read-only at the time
// of the call. A swap takes 60 to 300 us, a row of them some milliseconds; a
// destination that is still absent becomes present when the guard in front has
// run, which the call then has to wait for.
CUresult retry_over_holes(SubmitRef call) {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(70);
  if (current != nullptr && !current->pinned && current->stream && is_capturing(*current->stream)) {
    const CUresult pinned = pin_for_capture(*current);
    if (pinned != CUDA_SUCCESS) return pinned;
    while (!all_written_present(*current) && std::chrono::steady_clock::now() < patience) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
  const std::uint64_t failed_before = current != nullptr ? failed_faults(*current) : 0;
  for (;;) {
    const vmm::SwapWatch watch = vmm::SwapWatch::start();
    const CUresult result = call();
    if (result != CUDA_ERROR_INVALID_VALUE) return result;
    const bool absent = current != nullptr && !all_written_present(*current);
    if (absent && failed_faults(*current) != failed_before) return CUDA_ERROR_OUT_OF_MEMORY;
    if ((!watch.overlapped() && !absent) || std::chrono::steady_clock::now() > patience) {
      return result;
    }
    if (absent) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

CUresult retry_while_absent(std::span<const Access> ranges, SubmitRef call) {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr || ranges.empty()) return call();
  const std::vector<Touched> touched = by_device(*runtime, ranges);
  Current now{touched, std::nullopt, false};
  CurrentScope scope(now);
  return retry_over_holes(call);
}

PinId pin(std::span<const Access> ranges, CUresult* result) {
  *result = CUDA_SUCCESS;
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr) return kNoPin;
  std::vector<Pinned> pieces;
  for (const Access& range : ranges) {
    for (const PoolView& pool : pools_in(range.address, range.bytes)) {
      DeviceRuntime* device = runtime->device(pool.device);
      if (device == nullptr) continue;
      Access piece = part_in(pool, range);
      piece.writes = true;
      device->memory.pin(piece.address, piece.bytes);
      pieces.push_back({pool.buffer_id, piece});
      const StreamRef own{device->memory.kernels().stream(), StreamFlavor::kLegacy};
      vmm::ContextScope current(runtime->driver(), device->memory.context());
      *result = run_work(own, std::span(&piece, 1), nullptr, [] { return CUDA_SUCCESS; });
      if (*result == CUDA_SUCCESS) continue;
      unpin_all(*runtime, pieces);
      return kNoPin;
    }
  }
  if (pieces.empty()) return kNoPin;
  std::lock_guard lock(pins_mutex);
  const PinId id = next_pin++;
  pins.emplace(id, std::move(pieces));
  return id;
}

void unpin(PinId pin) noexcept {
  std::vector<Pinned> pieces;
  {
    std::lock_guard lock(pins_mutex);
    const auto it = pins.find(pin);
    if (it == pins.end()) return;
    pieces = std::move(it->second);
    pins.erase(it);
  }
  const Runtime* runtime = Runtime::get();
  if (runtime != nullptr) unpin_all(*runtime, pieces);
}

void before_stream_destroy(CUstream stream) noexcept {
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) device->streams.before_destroy(stream);
  }
}

void before_capture(StreamRef stream) noexcept {
  if (const Runtime* runtime = Runtime::get()) {
    for (DeviceRuntime* device : runtime->devices()) device->streams.before_capture(stream);
  }
}

// Nothing is kept while a stream captures: an event recorded before is still
// the newest fact about its executed work.
void after_capture(StreamRef) noexcept {}

void before_context_destroy(CUcontext context) noexcept {
  if (Runtime* runtime = Runtime::get()) runtime->context_ends(context);
}

bool is_capturing(StreamRef stream) noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return real().cuStreamIsCapturing(stream.explicit_handle(), &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

}  // namespace kvshim::preload
