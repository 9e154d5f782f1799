#include "preload/neighbours.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "preload/gifts.h"
#include "preload/group_quota.h"
#include "preload/membership.h"
#include "preload/needs.h"
#include "preload/runtime.h"
#include "preload/status.h"
#include "segment/owner.h"
#include "segment/reader.h"
#include "vmm/service_thread.h"

namespace kvshim::preload {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using vmm::Lack;

constexpr milliseconds kPlainPatience{1000};
constexpr milliseconds kListen{50}, kListenClosely{4};
// A word that can't be obeyed at once (the process is busy) is acknowledged all the same.
constexpr milliseconds kObeyedWithin{500};

bool sees_physical(const Runtime& runtime) {
  return runtime.options().memory_view == config::MemoryView::kPhysical;
}

class Neighbours final : public vmm::Pressure {
 public:
  explicit Neighbours(CUdevice device) : device_(device) {}

  bool anyone_else() const noexcept override {
    return others_.load(std::memory_order_relaxed) != 0;
  }
  std::uint64_t elastic_elsewhere() noexcept override {
    const Runtime* runtime = Runtime::get();
    return runtime != nullptr && !sees_physical(*runtime)
               ? preload::elastic_elsewhere(*runtime, device_)
               : 0;
  }

  void holds_more(std::int64_t bytes) noexcept override {
    held_.fetch_add(bytes);
    if (segment::Owner* const owner = membership_of(device_)) tell_held(*owner);
  }
  /// Of two threads that tell, the last one says what holds now.
  void tell_held(segment::Owner& owner) noexcept {
    for (std::int64_t told = held_.load();;) {
      owner.holds(static_cast<std::uint64_t>(std::max<std::int64_t>(told, 0)));
      if (const std::int64_t now = held_.load(); std::exchange(told, now) == now) return;
    }
  }

  bool ask(Lack lack, std::uint64_t bytes) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    return owner != nullptr && anyone_else() && needs_.ask(*owner, lack, bytes);
  }
  std::uint64_t wanted_ahead() const noexcept override {
    return anyone_else() ? needs_.wanted_ahead() : 0;
  }
  void ask_ahead(std::uint64_t bytes) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    if (owner != nullptr && anyone_else()) needs_.ask_ahead(*owner, bytes);
  }
  std::uint64_t needed_before_us() noexcept override {
    const segment::Owner* const owner = membership_of(device_);
    return owner != nullptr && asks_.load() ? needs_.before_us(*owner, priority_.load()) : 0;
  }
  Answers answers() noexcept override {
    const segment::Owner* const owner = membership_of(device_);
    return owner != nullptr ? Needs::answers(*owner, others_.load()) : Answers{0, true};
  }
  void ended(Lack lack, bool got) noexcept override {
    if (segment::Owner* const owner = membership_of(device_)) needs_.ended(*owner, lack, got);
  }

  bool anyone_asks() noexcept override { return asks_.load(std::memory_order_relaxed); }
  std::uint64_t asked_of_us(const vmm::Giver& us) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    return owner != nullptr ? gifts_.asked_of(*owner, us, priority_.load()) : 0;
  }
  std::uint64_t lacked(std::uint64_t gpu_free, std::uint64_t floor) noexcept override {
    const segment::Owner* const owner = membership_of(device_);
    return owner != nullptr ? Gifts::lacked_by(*owner, gpu_free, floor) : 0;
  }
  void begins_to_give() noexcept override {
    giving_.store(true);
    if (segment::Owner* const owner = membership_of(device_)) gifts_.begins(*owner);
  }
  void ends_giving() noexcept override { giving_.store(false); }
  void gave(std::uint64_t bytes) noexcept override {
    if (segment::Owner* const owner = membership_of(device_)) gifts_.gave(*owner, bytes);
  }

  Needs& needs() noexcept { return needs_; }

  void start() {
    if (started_.exchange(true)) return;
    try {
      const vmm::HostSignalsBlocked blocked;
      std::thread([this] { listen(); }).detach();
    } catch (...) {
      started_.store(false);
      throw;
    }
  }

 private:
  struct Word {
    InForce in_force;
    Clock::time_point until;
  };

  void listen() noexcept {
    pthread_setname_np(pthread_self(), "kvshim-listen");
    while (!ended_.load()) {
      segment::Owner* const owner = membership_of(device_);
      Runtime* const runtime = Runtime::get();
      if (owner == nullptr || runtime == nullptr) return started_.store(false);
      bool closely = false;
      try {
        closely = look(*owner, runtime->device(device_));
      } catch (...) {  // no memory: the next time
      }
      owner->wait(closely ? kListenClosely : kListen);
    }
  }

  // True: it should be looked again soon.
  bool look(segment::Owner& owner, DeviceRuntime* device) {
    others_.store(owner.neighbours());
    const bool asks = !owner.needs().empty();
    asks_.store(asks);
    // The releasing thread is in the middle of it: scans and copies take longer than others
    // wait for a word.
    if (asks && giving_.load()) gifts_.goes_on(owner);
    needs_.refresh(owner);
    const std::vector<segment::Control> groups = owner.group_controls();
    const std::uint64_t share = divide_group_quota(owner, device_, device, groups);
    if (device == nullptr) return asks;
    obey(owner, *device, groups, share);
    if (asks) device->releaser.look_now();
    return asks || word_.has_value();
  }

  void obey(segment::Owner& owner, DeviceRuntime& device,
            const std::vector<segment::Control>& groups, std::uint64_t share) {
    std::uint64_t generation = 0;
    const segment::Control own = owner.control(&generation);
    InForce now{own.limit, own.reserve, own.priority, own.paused != 0, generation};
    std::uint64_t limit = own.limit, requests = own.release_requests, shown_taken = 0;
    if (share != 0) limit = limit != 0 ? std::min(limit, share) : share;
    for (const segment::Control& group : groups) {
      obey_group(owner, group, &now, &shown_taken);
      requests += group.release_requests;
    }
    vmm::Limits& limits = device.memory.limits();
    const bool changed = generation != obeyed_ || limits.limit.load() != limit ||
                         limits.reserve.load() != now.reserve ||
                         limits.paused.load() != now.paused || priority_.load() != now.priority;
    limits.limit.store(limit);
    limits.shown.store(now.limit);
    limits.shown_taken.store(shown_taken);
    limits.reserve.store(now.reserve);
    limits.paused.store(now.paused);
    priority_.store(now.priority);
    // A group's counter may be older than this process.
    if (!requests_) requests_ = requests - own.release_requests;
    if (requests != *requests_) {
      device.releaser.release_now();
    } else if (changed) {
      device.releaser.look_now();
    }
    if (changed || requests != *requests_) {
      word_ = Word{now, Clock::now() + kObeyedWithin};
    }
    obeyed_ = generation;
    requests_ = requests;
    if (word_ && ((device.releaser.settled() && device.memory.over_limit() == 0) ||
                  Clock::now() >= word_->until)) {
      set_in_force(device_, word_->in_force);
      word_.reset();
    }
  }

  // A group's limit is divided elsewhere (group_quota.h). Its reserve is shared out evenly;
  // what a process has of its own goes before.
  static void obey_group(const segment::Owner& owner, const segment::Control& group, InForce* now,
                         std::uint64_t* shown_taken) {
    const std::string name = group.group.str();
    std::uint64_t members = 1, taken = 0;
    for (const segment::NeighbourState& state : owner.states()) {
      if (name != "*" && state.group.str() != name) continue;
      taken += state.figures.other_bytes;
      ++members;
    }
    if (group.limit != 0) {
      *shown_taken = std::max(*shown_taken, taken);
      now->limit = now->limit != 0 ? std::min(now->limit, group.limit) : group.limit;
    }
    if (now->reserve == 0) now->reserve = group.reserve / members;
    if (now->priority == 0) now->priority = group.priority;
    now->paused = now->paused || group.paused != 0;
  }

  const CUdevice device_;
  std::atomic<bool> started_{false}, asks_{false}, giving_{false};
  std::atomic<std::size_t> others_{0};
  std::atomic<std::int64_t> priority_{0};
  std::atomic<std::int64_t> held_{0};
  Needs needs_;
  Gifts gifts_;
  // The listening thread's:
  std::uint64_t obeyed_ = 0;
  std::optional<std::uint64_t> requests_;
  std::optional<Word> word_;

 public:
  static inline std::atomic<bool> ended_{false};
};

std::atomic<Neighbours*> all_neighbours[kMostDevices];

Neighbours* neighbours(CUdevice device) {
  if (device < 0 || static_cast<std::size_t>(device) >= kMostDevices) return nullptr;
  std::atomic<Neighbours*>& slot = all_neighbours[static_cast<std::size_t>(device)];
  if (Neighbours* known = slot.load(std::memory_order_acquire)) return known;
  auto* made = new Neighbours(device);
  Neighbours* expected = nullptr;
  if (slot.compare_exchange_strong(expected, made)) return made;
  delete made;
  return expected;
}

}  // namespace

vmm::Pressure* neighbours_of(const Runtime& runtime, CUdevice device) {
  return runtime.options().segment ? neighbours(device) : nullptr;
}

void update_neighbours(Runtime& runtime) noexcept {
  if (!runtime.options().segment || Neighbours::ended_.load()) return;
  try {
    for (std::size_t i = 0; i < kMostDevices; ++i) {
      const auto device = static_cast<CUdevice>(i);
      if (membership_of(device) != nullptr) neighbours(device)->start();
    }
  } catch (...) {  // no thread, no memory: the next pass tries again
  }
}

void tell_held(CUdevice device, segment::Owner& owner) noexcept {
  if (Neighbours* const known = neighbours(device)) known->tell_held(owner);
}

void end_neighbours() noexcept { Neighbours::ended_.store(true); }

void abandon_neighbours_after_fork() noexcept {
  for (auto& slot : all_neighbours) slot.store(nullptr);
  Neighbours::ended_.store(false);
}

std::uint64_t elastic_elsewhere(const Runtime& runtime, CUdevice device) noexcept {
  const config::Options& options = runtime.options();
  if (!options.segment) return 0;
  std::uint64_t bytes = 0;
  try {
    if (const segment::Owner* owner = membership_of(device)) {
      for (const segment::NeighbourState& state : owner->states()) bytes += state.held;
      return bytes;
    }
    const std::string uuid = uuid_of(device);
    for (const segment::GpuSnapshot& gpu : segment::read_all(options.segment_dir)) {
      if (gpu.uuid != uuid) continue;
      for (const segment::RecordSnapshot& record : gpu.records) {
        if (record.live) bytes += record.held;
      }
    }
  } catch (...) {
  }
  return bytes;
}

namespace {

/// What an allocation lacks, told to the neighbours for as long as this lives.
class AllocationNeed {
 public:
  AllocationNeed(segment::Owner& owner, Needs& needs, std::uint64_t bytes) noexcept
      : owner_(owner), needs_(needs), bytes_(round_up(bytes)) {
    needs_.allocation_begins(owner_, bytes_);
  }
  ~AllocationNeed() { needs_.allocation_ends(owner_, bytes_); }
  AllocationNeed(const AllocationNeed&) = delete;
  AllocationNeed& operator=(const AllocationNeed&) = delete;

 private:
  // The driver cuts allocations from pieces of 2 MiB.
  static std::uint64_t round_up(std::uint64_t bytes) {
    constexpr std::uint64_t kPiece = std::uint64_t{2} << 20;
    return (bytes + kPiece - 1) / kPiece * kPiece;
  }

  segment::Owner& owner_;
  Needs& needs_;
  const std::uint64_t bytes_;
};

}  // namespace

CUresult allocate_when_neighbours_gave(Runtime& runtime, CUdevice device, std::uint64_t bytes,
                                       SubmitRef allocate) {
  if (!runtime.options().segment || elastic_elsewhere(runtime, device) == 0) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  Neighbours* const others = neighbours(device);
  if (others == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  // A process that has no pool yet becomes a member now: it loads its weights.
  want_membership(device);
  start_status();
  const auto end = Clock::now() + kPlainPatience;
  while (!others->anyone_else() && Clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  segment::Owner* const owner = membership_of(device);
  if (owner == nullptr || !others->anyone_else()) return CUDA_ERROR_OUT_OF_MEMORY;
  // Until it was tried: what is free for it must not be taken for another thread's.
  const AllocationNeed need(*owner, others->needs(), bytes);
  const auto free_bytes = [&]() -> std::uint64_t {
    std::size_t free = 0, total = 0;
    return runtime.driver().cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS ? free : 0;
  };
  const auto enough = [&] {
    return free_bytes() >= others->needs().of_allocations() + others->needed_before_us();
  };
  while (!enough() && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return free_bytes() >= bytes ? allocate() : CUDA_ERROR_OUT_OF_MEMORY;
}

}  // namespace kvshim::preload
