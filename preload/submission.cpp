#include "preload/submission.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>

#include "observe/log.h"
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

thread_local CurrentWork* current_work = nullptr;
thread_local unsigned in_no_order = 0;  // submissions of this thread that gave up waiting

}  // namespace

Submission::Submission(DeviceRuntime& device) : device_(device) {
  device.releaser.restore_before_first_work();
  device.gate.enter();
  locked_ = lock_with_patience(device.submission);
  if (!locked_) {
    ++in_no_order;
    device.memory.comes_in_no_order(device.gate.epoch());
    log::warning(
        "a submission waited 10 s for another thread's; going on without the order "
        "between streams");
  }
}

Submission::~Submission() {
  if (locked_) {
    device_.submission.unlock();
  } else {
    --in_no_order;
  }
  device_.gate.leave();
}

bool Submission::thread_is_alone() noexcept { return in_no_order == 0; }

Access part_in(const PoolView& pool, const Access& range) {
  const CUdeviceptr begin = std::max(range.address, pool.base);
  const std::size_t to_pool_end = pool.base + pool.bytes - begin;
  const std::size_t to_range_end = range.bytes - (begin - range.address);
  return {begin, std::min(to_pool_end, to_range_end), range.writes};
}

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
        it = all.insert(place, Touched{device, {}, {}});
      }
      if (access.bytes == 0 || (!access.writes && access.stays_in_written)) continue;
      const Access piece = part_in(pool, access);
      const std::vector<vmm::AbiRun> runs = device->memory.granule_runs(piece.address, piece.bytes);
      std::vector<vmm::AbiRun>& all_runs = access.writes ? it->written : it->read_anywhere;
      all_runs.insert(all_runs.end(), runs.begin(), runs.end());
    }
  }
  return all;
}

CUresult guard_on_own_stream(DeviceRuntime& device, std::span<const vmm::AbiRun> written,
                             vmm::GuardPlace guard) {
  const StreamRef own{device.memory.kernels().stream(), StreamFlavor::kLegacy};
  vmm::ContextScope current(Runtime::get()->driver(), device.memory.context());
  StreamOrder::Place place;
  CUresult result = device.streams.order(own, &place, Submission::thread_is_alone());
  if (result == CUDA_SUCCESS) {
    result = device.memory.kernels().launch_fixed_guard(own.handle, written, guard);
  }
  device.streams.submitted(own, place);
  return result;
}

namespace {

// Slots that a guard would look up lie in memory of the other context.
std::vector<vmm::AbiRun> everything_written(const DeviceRuntime& device,
                                            std::span<const vmm::AbiRun> written,
                                            const vmm::LinearWrite* linear) {
  std::vector<vmm::AbiRun> all(written.begin(), written.end());
  for (std::uint32_t i = 0; linear != nullptr && i < linear->destinations; ++i) {
    const vmm::LinearDestination& to = linear->destination[i];
    const std::vector<vmm::AbiRun> runs =
        device.memory.granule_runs(to.pool_begin, to.pool_end - to.pool_begin);
    all.insert(all.end(), runs.begin(), runs.end());
  }
  return all;
}

CUresult guard_for_another_context(DeviceRuntime& device, StreamRef stream,
                                   std::span<const vmm::AbiRun> written, bool captured,
                                   vmm::GuardPlace guard) {
  if (captured) device.memory.pin(written);
  const CUresult result = guard_on_own_stream(device, written, guard);
  if (result != CUDA_SUCCESS || captured) return result;
  StreamOrder::Place same;
  return device.streams.order(stream, &same,
                              Submission::thread_is_alone());  // now behind the guard
}

}  // namespace

CUresult put_in_front(DeviceRuntime& device, StreamRef stream, std::span<const vmm::AbiRun> written,
                      const vmm::LinearWrite* linear, StreamOrder::Place* place,
                      vmm::GuardPlace guard) {
  CUresult result = device.streams.order(stream, place, Submission::thread_is_alone());
  if (result != CUDA_SUCCESS || (written.empty() && linear == nullptr)) return result;
  if (place->context != device.memory.context()) {
    return guard_for_another_context(device, stream, everything_written(device, written, linear),
                                     place->captured, guard);
  }
  const CUstream handle = stream.explicit_handle();
  if (!written.empty()) {
    result = device.memory.kernels().launch_fixed_guard(handle, written, guard);
    guard = vmm::GuardPlace::kBehindAnother;
  }
  if (result == CUDA_SUCCESS && linear != nullptr) {
    for (std::uint32_t i = 0; i < linear->destinations; ++i) {
      const vmm::LinearDestination& to = linear->destination[i];
      device.memory.note_first_slots(to.base, (linear->block - 1) * to.slot_stride + to.length);
    }
    result = device.memory.kernels().launch_linear_guard(handle, *linear, guard);
  }
  return result;
}

CurrentWork* CurrentWork::get() noexcept { return current_work; }

CurrentWorkScope::CurrentWorkScope(CurrentWork& now) noexcept : before_(current_work) {
  current_work = &now;
}
CurrentWorkScope::~CurrentWorkScope() { current_work = before_; }

}  // namespace kvshim::preload
