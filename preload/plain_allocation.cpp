#include "preload/plain_allocation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "observe/log.h"
#include "preload/graph_capture.h"
#include "preload/group_quota.h"
#include "preload/neighbours.h"
#include "preload/plain_memory.h"
#include "preload/runtime.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

std::string mebibytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// While own pools are not giving, and in any case.
constexpr std::chrono::milliseconds kOwnPatience{1000}, kLongestPatience{10'000};
// Without a word from the driver in between: an engine that probes for memory must not
// wait each time.
constexpr std::chrono::milliseconds kAfterFailure{1000};

// Asks the driver only where it must: an allocation in stream order takes a microsecond.
bool within_limit(const Runtime& runtime, CUdevice index, std::size_t bytes,
                  PlainAdmission* admission) {
  std::uint64_t limit = 0;
  if (const DeviceRuntime* device = runtime.device(index)) {
    limit = device->memory.limits().limit.load();
  } else if (runtime.options().limit.of(UINT64_MAX) != 0) {
    std::size_t free = 0, total = 0;
    if (runtime.driver().cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS) {
      limit = runtime.options().limit.of(total);
    }
  }
  if (group_quota_in_force(index)) {
    const std::uint64_t held = plain_bytes_admitted(index);
    if (bytes > UINT64_MAX - held || !group_quota_admits(index, held + bytes)) return false;
    limit = 0;  // the share says it
  }
  // Nobody gets more than the driver has.
  return admission->within(limit != 0 ? limit : UINT64_MAX / 2);
}

// Idle contents of own pools, while the engine waits in its allocation. What other
// threads wait for as well is theirs.
CUresult own_pools_make_way(DeviceRuntime& device, std::uint64_t bytes, SubmitRef allocate) {
  using Clock = std::chrono::steady_clock;
  const auto last = Clock::now() + kLongestPatience;
  auto now = Clock::now();
  Clock::duration patience = kOwnPatience;
  std::uint64_t held = device.memory.physical().device;
  vmm::Releaser::MakingWay way(device.releaser, bytes + 4 * kMiB);  // the driver rounds up
  while (way.goes_on() && device.memory.gpu_free() < way.needed_by_all() &&
         patience > Clock::duration::zero() && now < last) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    const auto before = std::exchange(now, Clock::now());
    if (const std::uint64_t left = device.memory.physical().device; left < held) {
      held = left;
      patience = kOwnPatience;
    } else if (!way.under_way()) {
      patience -= now - before;
    }
  }
  way.takes();
  return allocate();
}

/// The allocation that failed last on a device although pools gave what they could. For a
/// while another one as large is not pressed for: an engine that probes for memory must
/// not wait each time. A smaller one may be had.
class FailedAllocation {
 public:
  bool speaks_against(std::uint64_t bytes) const noexcept {
    return bytes >= bytes_.load() && now() < until_.load();
  }
  void remember(std::uint64_t bytes) noexcept {
    bytes_.store(now() < until_.load() ? std::min(bytes_.load(), bytes) : bytes);
    until_.store(now() + std::chrono::steady_clock::duration(kAfterFailure).count());
  }

 private:
  static std::int64_t now() noexcept {
    return std::chrono::steady_clock::now().time_since_epoch().count();
  }
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::int64_t> until_{0};
};
FailedAllocation failed_allocations[kMostDevices];

}  // namespace

CUresult press_for(Runtime& runtime, CUdevice index, std::uint64_t bytes, SubmitRef allocate) {
  if (index < 0 || static_cast<std::size_t>(index) >= kMostDevices) return CUDA_ERROR_OUT_OF_MEMORY;
  FailedAllocation& last = failed_allocations[index];
  if (last.speaks_against(bytes) || any_capture()) return CUDA_ERROR_OUT_OF_MEMORY;
  std::size_t free = 0, total = 0;
  if (runtime.driver().cuMemGetInfo_v2(&free, &total) != CUDA_SUCCESS || bytes > total) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  DeviceRuntime* const device = runtime.device(index);
  const std::uint64_t own = device != nullptr ? device->memory.physical().device : 0;
  const std::uint64_t elsewhere = elastic_elsewhere(runtime, index);
  // It can't be had, whoever gives: the honest answer at once.
  if (own + elsewhere == 0 || free + own + elsewhere < bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  vmm::RelaxedCaptureScope relaxed(runtime.driver());
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  if (own != 0) result = own_pools_make_way(*device, bytes, allocate);
  if (result == CUDA_ERROR_OUT_OF_MEMORY && elsewhere != 0) {
    result = allocate_when_neighbours_gave(runtime, index, bytes, allocate);
  }
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    last.remember(bytes);
    log::warning("an allocation of " + mebibytes(bytes) +
                 " of this process failed: pools gave what is idle, and that was not enough");
  } else {
    static std::atomic<std::int64_t> quiet_until{0};
    const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
    const std::string line = "pools gave way to an allocation of " + mebibytes(bytes);
    if (now() < quiet_until.load()) {
      log::debug(line);
    } else {
      quiet_until.store(now() + std::chrono::steady_clock::duration(kAfterFailure).count());
      log::info(line + " of this process");
    }
  }
  return result;
}

CUresult allocate_plain(CUdeviceptr* address, std::size_t bytes, SubmitRef allocate) {
  Runtime* runtime = Runtime::get();
  CUdevice index = 0;
  if (runtime == nullptr || runtime->driver().cuCtxGetDevice(&index) != CUDA_SUCCESS) {
    return allocate();
  }
  PlainAdmission admission(index, bytes);
  if (!within_limit(*runtime, index, bytes, &admission)) {
    static std::atomic<bool> said{false};
    if (!said.exchange(true)) {
      log::warning(
          "an allocation was refused because the process would be above its limit, all pools "
          "given away (option limit)");
    }
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  CUresult result = allocate();
  if (result == CUDA_ERROR_OUT_OF_MEMORY && bytes != 0) {
    result = press_for(*runtime, index, bytes, allocate);
  }
  if (result == CUDA_SUCCESS && address != nullptr) admission.made(*address);
  return result;
}

}  // namespace kvshim::preload
