#include "preload/runtime.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <system_error>
#include <thread>
#include <unordered_set>
#include <utility>

#include "preload/context_life.h"
#include "preload/function_info.h"
#include "preload/graph_capture.h"
#include "preload/host_memory.h"
#include "preload/membership.h"
#include "preload/mps.h"
#include "preload/neighbours.h"
#include "preload/peer_access.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/start_amounts.h"
#include "vmm/context_scope.h"

// The embedded device code (cmake/EmbedPtx.cmake).
extern "C" const char kvshim_ptx_guard[];

namespace kvshim::preload {
namespace gate_detail {
std::atomic<std::uint64_t> arena_base{0};
std::atomic<std::uint64_t> arena_bytes{0};
}  // namespace gate_detail

std::atomic<Runtime*> Runtime::instance_{nullptr};

namespace {

// The mechanism never meets the shim's own wrappers.
vmm::DriverApi real_functions() {
  vmm::DriverApi api;
#define KVSHIM_TAKE(name) api.name = real().name;
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_TAKE)
#undef KVSHIM_TAKE
  return api;
}

std::vector<heuristics::Rule> rules_of(const config::Options& options) {
  std::vector<heuristics::Rule> rules;
  for (const config::RuleOption& option : options.rules) {
    heuristics::Rule rule;
    rule.action = option.allow ? heuristics::Rule::Action::kAllow : heuristics::Rule::Action::kDeny;
    rule.call_site = option.call_site;
    rule.min_size = option.min_size;
    rule.max_size = option.max_size;
    rule.role = option.role;
    rule.source = option.source;
    rules.push_back(std::move(rule));
  }
  return rules;
}

// So many live pools are rare: freed ones are looked for from here on.
constexpr std::size_t kManyReasons = 1024;

// For a thread that submits in a context that another one destroys.
constexpr std::chrono::seconds kLaunchPatience{1};

void free_all_pools(vmm::DeviceMemory& memory) {
  for (const vmm::PoolFigures& pool : memory.pools()) memory.free(pool.base);
  memory.give_addresses_back();
}

constexpr const char* kNoThreads = "no thread could be started";

const char* missing_function(const vmm::DriverApi& api) {
#define KVSHIM_NEED(name) \
  if (api.name == nullptr) return #name;
  KVSHIM_VMM_DRIVER_FUNCTIONS(KVSHIM_NEED)
#undef KVSHIM_NEED
  return nullptr;
}

}  // namespace

DeviceRuntime::DeviceRuntime(const vmm::DriverApi& driver, vmm::Arena& arena, vmm::PoolTable& table,
                             CUdevice device, CUcontext context,
                             std::unique_ptr<vmm::DeviceKernels> kernels,
                             const vmm::DeviceSettings& device_settings,
                             const vmm::ReleaseSettings& release_settings,
                             std::uint64_t watchdog_milliseconds)
    : memory(driver, arena, table, device, context, std::move(kernels), device_settings),
      streams(driver),
      server(driver, memory, gate),
      watchdog(memory, watchdog_milliseconds),
      releaser(driver, memory, gate, streams, server, release_settings) {}

void DeviceRuntime::start_threads() {
  server.start();
  watchdog.start();
  releaser.start();
}

void DeviceRuntime::stop_threads() {
  releaser.stop();
  watchdog.stop();
  server.stop();
}

Runtime::Runtime(config::Loaded configuration, heuristics::ProcessIdentity identity)
    : driver_(real_functions()),
      configuration_(std::move(configuration)),
      profiles_(heuristics::Profiles::built_in()) {
  const config::Options& o = configuration_.options;
  if (!o.profiles.empty()) {
    for (std::string& problem : profiles_.add_file(o.profiles)) {
      configuration_.problems.push_back(std::move(problem));
    }
  }
  catalog_ = std::make_unique<heuristics::KernelCatalog>(profiles_);
  heuristics::Recognizer::Settings settings;
  settings.min_size = o.min_size;
  settings.rules = rules_of(o);
  recognizer_ = std::make_unique<heuristics::Recognizer>(profiles_, std::move(identity), settings);
  set_kernel_catalog(catalog_.get());
}

std::vector<DeviceRuntime*> Runtime::devices() const {
  std::vector<DeviceRuntime*> all;
  for (const auto& slot : devices_) {
    if (DeviceRuntime* device = slot.load(std::memory_order_acquire)) all.push_back(device);
  }
  return all;
}

std::vector<DeviceRuntime*> Runtime::devices_ever() const {
  std::vector<DeviceRuntime*> all = devices();
  std::lock_guard lock(making_);
  all.insert(all.end(), ended_.begin(), ended_.end());
  return all;
}

bool Runtime::make_arena(std::string* why) {
  if (arena_ != nullptr) return true;
  CUresult error = CUDA_SUCCESS;
  std::optional<vmm::Arena> arena =
      vmm::Arena::reserve(driver_, configuration_.options.arena_size, &error);
  if (!arena) {
    *why = "no address space could be reserved (CUDA error " + std::to_string(error) +
           "; option arena_size)";
    return false;
  }
  arena_ = std::make_unique<vmm::Arena>(std::move(*arena));
  own_table_ = new vmm::PoolTable(*arena_);
  table_.store(own_table_, std::memory_order_release);
  // The bytes last: a reader that sees them sees the base.
  gate_detail::arena_base.store(arena_->base(), std::memory_order_relaxed);
  gate_detail::arena_bytes.store(arena_->bytes(), std::memory_order_release);
  return true;
}

DeviceRuntime* Runtime::device_for_pool(CUcontext context, std::string* why) {
  CUdevice index = 0;
  if (driver_.cuCtxGetDevice == nullptr || driver_.cuCtxGetDevice(&index) != CUDA_SUCCESS ||
      index < 0 || static_cast<std::size_t>(index) >= kMostDevices) {
    *why = "the current device can't be told";
    return nullptr;
  }
  std::lock_guard lock(making_);
  auto& slot = devices_[static_cast<std::size_t>(index)];
  if (DeviceRuntime* known = slot.load(std::memory_order_acquire)) {
    if (!ending_.contains(known)) return known;
    *why = "the context of its GPU's pools is about to end";
    return nullptr;
  }
  if (threads_failed_) {
    *why = kNoThreads;
    return nullptr;
  }
  if (const char* name = missing_function(driver_)) {
    *why = std::string("this driver lacks ") + name + " (CUDA 12.4 or newer is needed)";
    return nullptr;
  }
  const bool mps = shared_through_mps(index);
  if (mps && !configuration_.options.under_mps) {
    *why = "its GPU is shared through MPS (option under_mps)";
    return nullptr;
  }
  int supported = 0;
  driver_.cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                               index);
  if (supported == 0) {
    *why = "this GPU has no virtual memory management";
    return nullptr;
  }
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, index};
  std::size_t granularity = 0;
  if (driver_.cuMemGetAllocationGranularity(&granularity, &properties,
                                            CU_MEM_ALLOC_GRANULARITY_MINIMUM) != CUDA_SUCCESS ||
      granularity > vmm::kGranuleBytes) {
    *why =
        "this GPU's mapping granularity is " + std::to_string(granularity) + " bytes, over 2 MiB";
    return nullptr;
  }
  if (!make_arena(why)) return nullptr;
  vmm::RelaxedCaptureScope relaxed(driver_);
  std::unique_ptr<vmm::DeviceKernels> kernels =
      vmm::DeviceKernels::create(driver_, *arena_, index, kvshim_ptx_guard, why);
  if (kernels == nullptr) return nullptr;
  const config::Options& o = configuration_.options;
  vmm::DeviceSettings device_settings;
  int node = 0;  // -1: the system has one node without a number
  driver_.cuDeviceGetAttribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, index);
  device_settings.host_numa_node = std::max(node, 0);
  device_settings.host_budget =
      o.host_budget == UINT64_MAX ? automatic_host_budget() : o.host_budget;
  device_settings.read_ahead_max = o.read_ahead_max;
  device_settings.read_ahead_share = o.read_ahead_share;
  // Made ahead of faults by a profile's word: a wrong one stops whoever shares the fault.
  device_settings.rows_ahead = o.rows_ahead && !mps;
  device_settings.follow_reads = o.cold_after.count() != 0 || o.prefetch;
  device_settings.pressure = neighbours_of(*this, index);
  vmm::ReleaseSettings release_settings;
  release_settings.idle_timeout = o.idle_timeout;
  release_settings.restore_time = o.restore_time;
  release_settings.drop_after = o.drop_after;
  release_settings.cold_after = o.cold_after;
  release_settings.prefetch = o.prefetch;
  release_settings.disposable = o.contents == config::Contents::kDisposable;
  const auto watchdog =
      std::chrono::duration_cast<std::chrono::milliseconds>(o.guard_watchdog).count();
  auto* made =
      new DeviceRuntime(driver_, *arena_, *own_table_, index, context, std::move(kernels),
                        device_settings, release_settings, static_cast<std::uint64_t>(watchdog));
  if (keep_if_end_is_unseen(index, context)) {
    made->memory.events().push(
        vmm::EventLevel::kInfo,
        "the primary context has users that kvshim can't count: it is kept until the process ends");
  }
  if (mps) {
    made->memory.events().push(
        vmm::EventLevel::kWarning,
        "this GPU is shared through MPS: a write that kvshim missed would stop all of its clients; "
        "nothing is made present on a profile's word alone (docs/sharing.md; option under_mps)");
  }
  std::size_t free = 0, total = 0;
  if (driver_.cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS) {
    const std::uint64_t limit = limit_at_start(o, index, total);
    made->memory.limits().limit.store(limit);
    made->memory.limits().reserve.store(reserve_at_start(o, limit, total));
    for (std::string& line : oversized_amounts(o, limit, total)) {
      made->memory.events().push(vmm::EventLevel::kWarning, std::move(line));
    }
  }
  made->memory.limits().other_bytes.store(plain_bytes(index));
  pools_beside_peers(made->memory);
  try {
    made->start_threads();
  } catch (const std::system_error&) {
    made->stop_threads();
    threads_failed_ = true;  // `made` stays: those that ran may still be on their way out
    *why = kNoThreads;
    return nullptr;
  }
  slot.store(made, std::memory_order_release);
  return made;
}

CUresult DeviceRuntime::wait_beside_captures(const vmm::DriverApi& driver) {
  vmm::RelaxedCaptureScope relaxed(driver);
  while (!streams.all_but_lost_finished()) {
    const CUresult state = driver.cuStreamQuery(memory.kernels().stream());
    if (state != CUDA_SUCCESS && state != CUDA_ERROR_NOT_READY) return state;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return streams.lost() == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

void Runtime::context_ends(CUcontext context) {
  const std::vector<DeviceRuntime*> all = devices();
  if (all.empty()) return;
  vmm::ContextScope current(driver_, context);
  std::vector<DeviceRuntime*> ending;
  for (DeviceRuntime* device : all) {
    if (device->memory.context() != context || !begins_to_end(*device)) continue;
    ending.push_back(device);
    // First, so that no launch of its own is refused. Guards are served until all have finished:
    // one that came later would wait for ever, and the destruction for it.
    device->releaser.stop();
    device->memory.kernels().refuse_launches(kLaunchPatience);
  }
  // As the context's destruction does, which waits beside a capture as well.
  if (!any_capture()) {
    driver_.cuCtxSynchronize();
  } else {
    for (DeviceRuntime* device : ending) device->wait_beside_captures(driver_);
  }
  for (DeviceRuntime* device : all) device->streams.before_context_destroy(context);
  for (DeviceRuntime* device : ending) end(*device);
}

bool Runtime::begins_to_end(DeviceRuntime& device) {
  const auto& slot = devices_[static_cast<std::size_t>(device.memory.device())];
  std::lock_guard lock(making_);
  return slot.load(std::memory_order_acquire) == &device && ending_.insert(&device).second;
}

// Without the lock while anything is waited for.
void Runtime::end(DeviceRuntime& device) {
  auto& slot = devices_[static_cast<std::size_t>(device.memory.device())];
  device.stop_threads();
  device.memory.kernels().nobody_answers();
  device.memory.no_guard_runs();
  device.memory.end_moves(vmm::DeviceMemory::MoveEnd::kAll);
  free_all_pools(device.memory);
  // What swaps took out, which the releasing thread would have released at its leisure.
  device.memory.release_retired();
  std::lock_guard lock(making_);
  slot.store(nullptr, std::memory_order_release);
  ending_.erase(&device);
  // The object stays: a hook of another thread may be about to leave its gate.
  ended_.push_back(&device);
}

void Runtime::context_ended(CUcontext context) {
  std::vector<DeviceRuntime*> ended;
  {
    std::lock_guard lock(making_);
    std::copy_if(ended_.begin(), ended_.end(), std::back_inserter(ended),
                 [&](const DeviceRuntime* device) { return device->memory.context() == context; });
  }
  for (DeviceRuntime* device : ended) {
    free_all_pools(device->memory);  // one that a thread was just making
    device->memory.kernels().context_ended();
  }
}

void Runtime::remember_reason(std::uint64_t pool, std::string reason) {
  std::lock_guard lock(reasons_mutex_);
  reasons_[pool] = std::move(reason);
  if (reasons_.size() < kManyReasons) return;
  std::unordered_set<std::uint64_t> live{pool};
  for (const DeviceRuntime* device : devices()) {
    for (const vmm::PoolFigures& figures : device->memory.pools()) live.insert(figures.id);
  }
  std::erase_if(reasons_, [&](const auto& entry) { return !live.contains(entry.first); });
}

std::string Runtime::reason_of(std::uint64_t pool) const {
  std::lock_guard lock(reasons_mutex_);
  const auto it = reasons_.find(pool);
  return it != reasons_.end() ? it->second : std::string();
}

}  // namespace kvshim::preload
