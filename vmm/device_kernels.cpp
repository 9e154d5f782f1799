#include "vmm/device_kernels.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace kvshim::vmm {
namespace {

constexpr unsigned kGuardThreads = 256;

template <class T>
CUresult pinned(const DriverApi& driver, std::size_t count, T** host) {
  void* memory = nullptr;
  const CUresult result = driver.cuMemHostAlloc(
      &memory, count * sizeof(T), CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
  if (result != CUDA_SUCCESS) return result;
  std::memset(memory, 0, count * sizeof(T));
  *host = static_cast<T*>(memory);
  return CUDA_SUCCESS;
}

// With unified addressing (every 64-bit system) a pinned host pointer is its
// own device address; the query is kept for systems where it is not.
template <class T>
CUresult device_pointer(const DriverApi& driver, T* host, T** device) {
  CUdeviceptr address = 0;
  const CUresult result = driver.cuMemHostGetDevicePointer_v2(&address, host, 0);
  *device = reinterpret_cast<T*>(address);
  return result;
}

}  // namespace

std::unique_ptr<DeviceKernels> DeviceKernels::create(const DriverApi& driver, const Arena& arena,
                                                     CUdevice device, const char* ptx,
                                                     std::string* why) {
  std::unique_ptr<DeviceKernels> made(new DeviceKernels(driver));
  const CUresult result = made->set_up(arena, device, ptx, why);
  if (result == CUDA_SUCCESS) return made;
  *why += " failed with CUDA error " + std::to_string(result);
  return nullptr;
}

CUresult DeviceKernels::set_up(const Arena& arena, CUdevice device, const char* ptx,
                               std::string* why) {
#define KVSHIM_STEP(call)                       \
  do {                                          \
    *why = #call;                               \
    why->resize(why->find('('));                \
    why->erase(0, why->find_last_of(".:") + 1); \
    const CUresult step = (call);               \
    if (step != CUDA_SUCCESS) return step;      \
  } while (false)

  KVSHIM_STEP(driver_.cuLibraryLoadData(&library_, ptx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&linear_, library_, kLinearGuardName));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&fixed_, library_, kFixedGuardName));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&scan_, library_, kScanName));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&clear_, library_, kClearName));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&mark_, library_, kMarkName));
  KVSHIM_STEP(driver_.cuLibraryGetKernel(&take_, library_, kTakeName));
  int least = 0;
  KVSHIM_STEP(driver_.cuStreamCreateWithPriority(&stream_, CU_STREAM_NON_BLOCKING, least));

  // The state lies in a VMM mapping, not in cuMemAlloc memory: it must be
  // reachable from every context of the device, as pools are.
  const std::size_t bitmap_words = bitmap_words_ = (arena.granules() + 31) / 32;
  constexpr std::size_t kLockWords = 32;
  const std::size_t used = (3 * bitmap_words + kLockWords) * sizeof(std::uint32_t);
  state_bytes_ = round_up_to_granule(used);
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  KVSHIM_STEP(driver_.cuMemCreate(&state_handle_, state_bytes_, &properties, 0));
  KVSHIM_STEP(driver_.cuMemAddressReserve(&state_, state_bytes_, 0, 0, 0));
  KVSHIM_STEP(driver_.cuMemMap(state_, state_bytes_, 0, state_handle_, 0));
  state_mapped_ = true;
  const CUmemAccessDesc access{properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  KVSHIM_STEP(driver_.cuMemSetAccess(state_, state_bytes_, &access, 1));
  KVSHIM_STEP(driver_.cuMemsetD8Async(state_, 0, state_bytes_, stream_));

  KVSHIM_STEP(pinned(driver_, 1, &channel_));
  KVSHIM_STEP(pinned(driver_, kScanCapacity, &scan_ranges_));
  KVSHIM_STEP(pinned(driver_, kScanCapacity, &scan_results_));
  KVSHIM_STEP(pinned(driver_, 2 * kScanCapacity, &clear_runs_));
  KVSHIM_STEP(pinned(driver_, 1, &mark_channel_));
  KVSHIM_STEP(pinned(driver_, bitmap_words, &marks_taken_));
  KVSHIM_STEP(pinned(driver_, 1, &copy_word_));
  auto* words = reinterpret_cast<std::uint32_t*>(state_);
  context_ = {arena.base(), words, words + bitmap_words, words + 2 * bitmap_words, nullptr};
  KVSHIM_STEP(device_pointer(driver_, channel_, &context_.channel));
  marks_ = words + 2 * bitmap_words + kLockWords;
  KVSHIM_STEP(device_pointer(driver_, mark_channel_, &mark_channel_on_device_));
  std::uint32_t* copy_word_on_device = nullptr;
  KVSHIM_STEP(device_pointer(driver_, copy_word_, &copy_word_on_device));
  copy_steps_.emplace(driver_, stream_, copy_word_,
                      reinterpret_cast<CUdeviceptr>(copy_word_on_device));

  LinearWrite nothing{};
  nothing.block = 1;
  nothing.slot_bytes = 8;
  KVSHIM_STEP(launch_linear_guard(stream_, nothing));
  const AbiRun no_run{0, 0};
  KVSHIM_STEP(launch_fixed_guard(stream_, std::span(&no_run, 1)));
  KVSHIM_STEP(launch_scan(0));
  KVSHIM_STEP(launch_clear({}));
  KVSHIM_STEP(launch_mark(stream_, TableRead{}, 0));
  KVSHIM_STEP(launch_take());
  *why = "the first launch of the guards";
  return wait_for_stream(std::chrono::seconds(30));
#undef KVSHIM_STEP
}

CUresult DeviceKernels::wait_for_stream(std::chrono::seconds most) const {
  const auto deadline = std::chrono::steady_clock::now() + most;
  for (;;) {
    const CUresult state = driver_.cuStreamQuery(stream_);
    if (state != CUDA_ERROR_NOT_READY || std::chrono::steady_clock::now() > deadline) return state;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

DeviceKernels::~DeviceKernels() {
  if (context_ended_) return;  // stream and pinned memory went with it
  if (stream_ != nullptr) {
    if (wait_for_stream(std::chrono::seconds(5)) == CUDA_ERROR_NOT_READY) return;  // in use
    driver_.cuStreamDestroy_v2(stream_);
  }
  for (void* host : {static_cast<void*>(channel_), static_cast<void*>(scan_ranges_),
                     static_cast<void*>(scan_results_), static_cast<void*>(clear_runs_),
                     static_cast<void*>(mark_channel_), static_cast<void*>(marks_taken_),
                     static_cast<void*>(copy_word_)}) {
    if (host != nullptr) driver_.cuMemFreeHost(host);
  }
  release_state();
}

// Addresses that can't be unmapped are never used again.
void DeviceKernels::release_state() {
  if (state_ != 0) {
    if (!state_mapped_ || driver_.cuMemUnmap(state_, state_bytes_) == CUDA_SUCCESS ||
        driver_.cuMemUnmap(state_, state_bytes_) == CUDA_SUCCESS) {
      driver_.cuMemAddressFree(state_, state_bytes_);
    }
    state_ = 0;
  }
  if (state_handle_ != 0) driver_.cuMemRelease(state_handle_);
  state_handle_ = 0;
  if (library_ != nullptr) driver_.cuLibraryUnload(library_);
  library_ = nullptr;
}

bool DeviceKernels::refuse_launches(std::chrono::milliseconds patience) {
  refused_.store(true);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (launching_.load() != 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

bool DeviceKernels::guards_give_up() const {
  return std::atomic_ref(channel_->give_up).load() != 0;
}

void DeviceKernels::nobody_answers() { std::atomic_ref(channel_->give_up).store(1); }

void DeviceKernels::context_ended() {
  if (!refused_.load() || launching_.load() != 0 || context_ended_.exchange(true)) return;
  release_state();
}

CUresult DeviceKernels::launch(CUkernel kernel, unsigned grid_x, unsigned grid_y, unsigned threads,
                               CUstream stream, void* params) const {
  void* kernel_params[] = {params};
  launching_.fetch_add(1);
  const CUresult result =
      refused_.load() ? CUDA_ERROR_CONTEXT_IS_DESTROYED
                      : driver_.cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), grid_x, grid_y,
                                               1, threads, 1, 1, 0, stream, kernel_params, nullptr);
  launching_.fetch_sub(1);
  return result;
}

CUresult DeviceKernels::launch_linear_guard(CUstream stream, const LinearWrite& write,
                                            GuardPlace place) const {
  LinearGuardParams params{context_, write, behind(place), 0};
  // Few slots need few threads, and a whole block waits at each barrier; but what is parked is
  // copied by them, over a bus that answers in 1.3 us (docs/results/parking.md).
  const unsigned threads = write.count <= 128 ? 128 : kGuardThreads;
  return launch(linear_, 1, 1, threads, stream, &params);
}

CUresult DeviceKernels::launch_fixed_guard(CUstream stream, std::span<const AbiRun> runs,
                                           GuardPlace place) const {
  for (std::size_t at = 0; at < runs.size(); at += kMaxFixedRuns) {
    FixedGuardParams params{};
    params.context = context_;
    params.behind = behind(at == 0 ? place : GuardPlace::kBehindAnother);
    params.run_count =
        static_cast<std::uint32_t>(std::min<std::size_t>(kMaxFixedRuns, runs.size() - at));
    std::copy_n(runs.begin() + static_cast<std::ptrdiff_t>(at), params.run_count, params.runs);
    const CUresult result = launch(fixed_, 1, 1, kGuardThreads, stream, &params);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult DeviceKernels::launch_mark(CUstream stream, const TableRead& read,
                                    std::uint32_t asked) const {
  // Few: in a graph all of them are started to look whether anybody asks.
  constexpr unsigned kMostBlocks = 32;
  constexpr unsigned kThreads = 128;
  MarkParams params{read, context_.arena_base, marks_, mark_channel_on_device_, asked, 0};
  return launch(mark_, std::clamp(read.rows, 1u, kMostBlocks), 1, kThreads, stream, &params);
}

CUresult DeviceKernels::launch_take() {
  std::fill_n(marks_taken_, bitmap_words_, 0u);
  TakeParams params{marks_, nullptr, static_cast<std::uint32_t>(bitmap_words_), 0};
  const CUresult result = device_pointer(driver_, marks_taken_, &params.taken);
  if (result != CUDA_SUCCESS) return result;
  return launch(take_, 32, 1, 256, stream_, &params);
}

CUresult DeviceKernels::launch_scan(std::uint32_t count) {
  // Enough blocks for one extent to use the whole GPU when there are few.
  constexpr unsigned kParts = 32;
  std::fill_n(scan_results_, count, 0u);
  ScanParams params{};
  params.range_count = count;
  CUresult result = device_pointer(driver_, scan_ranges_, const_cast<AbiCopy**>(&params.ranges));
  if (result == CUDA_SUCCESS) result = device_pointer(driver_, scan_results_, &params.nonzero);
  if (result != CUDA_SUCCESS) return result;
  return launch(scan_, kParts, std::max(count, 1u), 512, stream_, &params);
}

CUresult DeviceKernels::launch_clear(std::span<const AbiRun> runs, ClearUser user) {
  AbiRun* const buffer = clear_runs_ + (user == ClearUser::kAllocation ? kScanCapacity : 0);
  std::copy(runs.begin(), runs.end(), buffer);
  ClearParams params{};
  params.context = context_;
  params.run_count = static_cast<std::uint32_t>(runs.size());
  const CUresult result = device_pointer(driver_, buffer, const_cast<AbiRun**>(&params.runs));
  if (result != CUDA_SUCCESS) return result;
  return launch(clear_, std::clamp(params.run_count, 1u, 1024u), 1, 32, stream_, &params);
}

}  // namespace kvshim::vmm
