#include "preload/membership.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>

#include "observe/log.h"
#include "preload/engine_memory.h"
#include "preload/mps.h"
#include "preload/neighbours.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "preload/start_amounts.h"
#include "preload/unknown_kernels.h"
#include "segment/layout.h"
#include "segment/reader.h"

namespace kvshim::preload {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kPublishEvery{100};
// Whatever it costs: neighbours count with the figures.
constexpr milliseconds kPublishAtLeastEvery{1000};
constexpr milliseconds kRetryEvery{10000};
constexpr milliseconds kCountKernelsEvery{1000};
constexpr int kCostShare = 200;  // 0.5 %
// A pass that comes later than this was held up with the whole process.
constexpr milliseconds kLongestPass{1000};

// Of one device; all but the atomics belongs to the housekeeping thread.
struct Membership {
  std::atomic<segment::Owner*> owner{nullptr};  // leaked: others may hold it
  std::atomic<bool> wanted{false};              // without a pool
  std::atomic<bool> heard{false};               // in_force is new
  std::mutex mutex;
  InForce in_force;  // under mutex
  Clock::time_point next_join{}, next_figures{}, last_pass{}, kernels_counted{};
  std::string told;
  std::uint64_t epoch = 0, unknown_kernels = 0;
  std::chrono::nanoseconds idle{0};
};

std::atomic<bool> ended{false};
std::atomic<Membership*> memberships[kMostDevices];

Membership& membership(std::size_t device) {
  std::atomic<Membership*>& slot = memberships[device];
  if (Membership* known = slot.load(std::memory_order_acquire)) return *known;
  auto made = std::make_unique<Membership>();
  Membership* expected = nullptr;
  if (slot.compare_exchange_strong(expected, made.get())) return *made.release();
  return *expected;
}

// Of this thread: time in which it waits for a lock costs nobody anything.
std::chrono::nanoseconds processor_time() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

bool valid(CUdevice device) {
  return device >= 0 && static_cast<std::size_t>(device) < kMostDevices;
}

segment::Identity identity_for(CUdevice device, const std::string& status_file) {
  segment::Identity identity = segment::own_identity();
  std::size_t total = 0;
  if (real().cuDeviceTotalMem_v2 != nullptr &&
      real().cuDeviceTotalMem_v2(&total, device) == CUDA_SUCCESS) {
    identity.gpu_total = total;
  }
  char name[96] = "";
  if (real().cuDeviceGetName != nullptr &&
      real().cuDeviceGetName(name, sizeof(name), device) == CUDA_SUCCESS) {
    identity.gpu_name = name;
  }
  identity.status_file = status_file;
  return identity;
}

segment::Control initial_control(const config::Options& options, CUdevice device,
                                 std::uint64_t gpu_total) {
  segment::Control control;
  control.limit = limit_at_start(options, device, gpu_total);
  control.reserve = reserve_at_start(options, control.limit, gpu_total);
  control.priority = options.priority;
  control.group = options.group;
  control.set_ns = segment::monotonic_ns();
  return control;
}

// What is recorded for a group, lifted or not; nothing: nothing is.
segment::Control recorded_for(const segment::GpuSnapshot& gpu, const std::string& name) {
  for (const auto* groups : {&gpu.groups, &gpu.lifted_groups}) {
    for (const segment::Control& group : *groups) {
      if (group.group.str() == name) return group;
    }
  }
  return {};
}

// The configuration's words for the group hold where nobody else's do: no member lives, or no
// tool has spoken last (a tool's "none" is a word, too) and nothing of the kind is recorded.
void set_group_words(const segment::Owner& owner, const std::string& uuid,
                     const config::Options& options) {
  if (options.group.empty()) return;
  for (const segment::GpuSnapshot& gpu : segment::read_all(options.segment_dir)) {
    if (gpu.uuid != uuid) continue;
    std::uint64_t total = 0;
    bool others = false;
    for (const segment::RecordSnapshot& record : gpu.records) {
      if (record.claim == owner.claim()) {
        total = record.identity.gpu_total;
      } else {
        others |= record.live && record.control.group.str() == options.group;
      }
    }
    const segment::Control recorded =
        others ? recorded_for(gpu, options.group) : segment::Control{};
    if (recorded.set_by != 0) return;
    segment::ControlChange change;
    change.by_configuration = true;
    const std::uint64_t limit = options.group_limit.of(total);
    const std::uint64_t reserve = options.group_reserve.of(total);
    if (limit != 0 && recorded.limit == 0) change.limit = limit;
    if (reserve != 0 && recorded.reserve == 0) change.reserve = reserve;
    if (options.group_priority != 0 && recorded.priority == 0) {
      change.priority = options.group_priority;
    }
    if (!change.limit && !change.reserve && !change.priority) return;
    const std::string problem = segment::set_group_control(gpu, options.group, change);
    if (!problem.empty()) log::warning("the words for group " + options.group + ": " + problem);
  }
}

void tell(const segment::Tick& said) {
  for (const std::string& line : said.problems) log::warning(line);
  for (const std::string& line : said.news) log::info(line);
}

void join(Membership& member, CUdevice device, const config::Options& options,
          const std::string& status_file) {
  const Clock::time_point now = Clock::now();
  if (now < member.next_join) return;
  member.next_join = now + kRetryEvery;
  segment::Tick said;
  std::string why;
  std::unique_ptr<segment::Owner> owner;
  const std::string uuid = uuid_of(device);
  if (uuid.empty()) {
    why = "the driver doesn't tell the UUID of device " + std::to_string(device);
  } else {
    const segment::Identity identity = identity_for(device, status_file);
    owner =
        segment::Owner::attach(options.segment_dir, uuid, identity,
                               initial_control(options, device, identity.gpu_total), &said, &why);
  }
  tell(said);
  if (owner == nullptr) {
    if (why != member.told) {
      log::warning("neighbours and tools can't see this process: " + why);
    }
    member.told = why;
    return;
  }
  set_group_words(*owner, uuid, options);
  log::debug("joined the segment " + owner->path() + ", record " + std::to_string(owner->index()));
  segment::Owner* joined = owner.release();
  member.owner.store(joined, std::memory_order_release);
  if (ended.load()) joined->detach();  // the process began to exit meanwhile
}

// Counted in own passes, as the releasing thread counts its ticks: a paused
// process is not idle.
void measure_idleness(Membership& member, DeviceRuntime* device) {
  const Clock::time_point now = Clock::now();
  const auto passed = std::min<std::chrono::nanoseconds>(now - member.last_pass, kLongestPass);
  const std::uint64_t epoch = device != nullptr ? device->gate.epoch() : member.epoch;
  member.idle = epoch != member.epoch || member.last_pass == Clock::time_point()
                    ? std::chrono::nanoseconds(0)
                    : member.idle + passed;
  member.epoch = epoch;
  member.last_pass = now;
}

// Sizes of what is there now; counters over all of the device's contexts so far.
segment::Figures figures_of(Membership& member, Runtime& runtime, CUdevice index) {
  segment::Figures f;
  for (DeviceRuntime* device : runtime.devices_ever()) {
    if (device->memory.device() != index) continue;
    const vmm::Statistics& s = device->memory.statistics();
    f.faults += s.faults.count();
    f.fault_total_us += s.faults.total();
    f.fault_p50_us = std::max(f.fault_p50_us, s.faults.quantile(0.5));
    f.fault_p99_us = std::max(f.fault_p99_us, s.faults.quantile(0.99));
    f.fault_max_us = std::max(f.fault_max_us, s.faults.max());
    f.faults_in_host_memory += s.faults_in_host_memory.load();
    f.failed_faults += s.failed_faults.load();
    f.releases += s.releases.load();
    f.released_zero_bytes += s.released_zero_bytes.load();
    f.parked_bytes += s.parked_bytes_total.load();
    f.dropped_bytes += s.dropped_bytes.load();
    f.promotions += s.promotions.load();
    f.restored_bytes += s.promoted_bytes.load();
    f.dropped_fills += s.dropped_fills.load();
    f.dropped_fill_bytes += s.dropped_fill_bytes.load();
    f.given_bytes += s.given_bytes.load();
    f.got_bytes += s.got_bytes.load();
    f.needs_answered += s.needs_answered.load();
    f.needs_unanswered += s.needs_unanswered.load();
  }
  f.released_bytes = f.released_zero_bytes + f.parked_bytes + f.dropped_bytes;
  if (DeviceRuntime* device = runtime.device(index)) {
    for (const vmm::PoolFigures& pool : device->memory.pools()) {
      ++f.pools;
      f.pool_bytes += pool.bytes;
      f.resident += pool.resident;
      f.parked += pool.parked;
      f.absent += pool.absent;
    }
    // Read after the pools and not with them: never below zero.
    const vmm::PhysicalBytes physical = device->memory.physical();
    const std::uint64_t in_use = device->memory.host_in_use();
    f.device_cached =
        physical.zero + (physical.device > f.resident ? physical.device - f.resident : 0);
    f.host_cached = physical.host > in_use ? physical.host - in_use : 0;
    f.host_budget = device->memory.host_budget();
    f.gpu_free = device->memory.gpu_free_seen();
  }
  const Clock::time_point now = Clock::now();
  if (now - member.kernels_counted >= kCountKernelsEvery) {
    member.unknown_kernels = unknown_kernels().size();
    look_at_pool_reserve(index);
    member.kernels_counted = now;
  }
  f.unknown_kernels = member.unknown_kernels;
  f.other_bytes = plain_bytes(index);
  f.idle_ms =
      static_cast<std::uint64_t>(std::chrono::duration_cast<milliseconds>(member.idle).count());
  f.updated_ns = segment::monotonic_ns();
  return f;
}

segment::Settings settings_of(Membership& member, const config::Options& options,
                              std::uint64_t host_budget) {
  segment::Settings settings;
  {
    std::lock_guard lock(member.mutex);
    settings.limit = member.in_force.limit;
    settings.reserve = member.in_force.reserve;
    settings.priority = member.in_force.priority;
    settings.paused = member.in_force.paused ? 1 : 0;
    settings.control_generation = member.in_force.control_generation;
  }
  settings.idle_timeout_ms = static_cast<std::uint64_t>(
      std::chrono::duration_cast<milliseconds>(options.idle_timeout).count());
  settings.host_budget = host_budget;
  settings.disposable = options.contents == config::Contents::kDisposable ? 1 : 0;
  return settings;
}

void publish(Membership& member, Runtime& runtime, CUdevice device) {
  segment::Figures figures = figures_of(member, runtime, device);
  const segment::Settings settings = settings_of(member, runtime.options(), figures.host_budget);
  figures.elastic = figures.pools > 0 && settings.paused == 0 ? 1 : 0;
  if (segment::Owner* owner = member.owner.load()) owner->publish(figures, settings);
}

void update(Membership& member, Runtime& runtime, CUdevice index, const std::string& status_file) {
  DeviceRuntime* device = runtime.device(index);
  segment::Owner* owner = member.owner.load();
  if (owner == nullptr) {
    if (device == nullptr && !member.wanted.load()) return;
    join(member, index, runtime.options(), status_file);
    owner = member.owner.load();
    if (owner == nullptr) return;
    tell_held(index, *owner);
  }
  tell(owner->tick());
  measure_idleness(member, device);
  const Clock::time_point start = Clock::now();
  if (start < member.next_figures && !member.heard.exchange(false)) return;
  const auto spent = processor_time();
  publish(member, runtime, index);
  const auto cost = processor_time() - spent;
  member.next_figures = start + std::clamp<Clock::duration>(
                                    cost * kCostShare,
                                    // The pass itself comes every 100 ms, not to the microsecond.
                                    kPublishEvery / 2, kPublishAtLeastEvery);
}

}  // namespace

std::string uuid_of(CUdevice device) {
  CUuuid uuid{};
  if (real().cuDeviceGetUuid_v2 == nullptr ||
      real().cuDeviceGetUuid_v2(&uuid, device) != CUDA_SUCCESS) {
    return {};
  }
  std::array<unsigned char, 16> bytes;
  std::memcpy(bytes.data(), uuid.bytes, bytes.size());
  return segment::uuid_text(bytes);
}

std::uint64_t limit_at_start(const config::Options& options, CUdevice device, std::uint64_t total) {
  const std::uint64_t own = options.limit.of(total);
  const std::uint64_t client =
      shared_through_mps(device) ? own_mps_limit(device, uuid_of(device)) : 0;
  return own != 0 && client != 0 ? std::min(own, client) : std::max(own, client);
}

void update_memberships(Runtime& runtime, const std::string& status_file) noexcept {
  if (!runtime.options().segment || ended.load()) return;
  try {
    for (std::size_t i = 0; i < kMostDevices; ++i) {
      const auto index = static_cast<CUdevice>(i);
      if (runtime.device(index) == nullptr && memberships[i].load() == nullptr) continue;
      update(membership(i), runtime, index, status_file);
    }
  } catch (...) {  // no memory: the next pass tries again
  }
}

segment::Owner* membership_of(CUdevice device) noexcept {
  if (!valid(device)) return nullptr;
  const Membership* known =
      memberships[static_cast<std::size_t>(device)].load(std::memory_order_acquire);
  return known != nullptr ? known->owner.load(std::memory_order_acquire) : nullptr;
}

void set_in_force(CUdevice device, const InForce& in_force) noexcept {
  if (!valid(device)) return;
  try {
    Membership& member = membership(static_cast<std::size_t>(device));
    std::lock_guard lock(member.mutex);
    member.in_force = in_force;
    member.heard.store(true);
  } catch (...) {
  }
}

void want_membership(CUdevice device) noexcept {
  if (!valid(device)) return;
  try {
    membership(static_cast<std::size_t>(device)).wanted.store(true);
  } catch (...) {
  }
}

void end_memberships() noexcept {
  if (ended.exchange(true)) return;
  for (auto& slot : memberships) {
    const Membership* member = slot.load(std::memory_order_acquire);
    segment::Owner* owner = member != nullptr ? member->owner.load() : nullptr;
    if (owner != nullptr) owner->detach();
  }
}

void abandon_memberships_after_fork() noexcept {
  for (auto& slot : memberships) {
    Membership* member = slot.exchange(nullptr);
    segment::Owner* owner = member != nullptr ? member->owner.load() : nullptr;
    if (owner != nullptr) owner->abandon_after_fork();
  }
  ended.store(false);
}

}  // namespace kvshim::preload
