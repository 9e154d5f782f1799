#include "preload/neighbours.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "observe/log.h"
#include "preload/giving.h"
#include "preload/group_quota.h"
#include "preload/membership.h"
#include "preload/runtime.h"
#include "preload/status.h"
#include "segment/layout.h"
#include "segment/owner.h"
#include "segment/reader.h"

namespace kvshim::preload {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using vmm::Lack;

constexpr std::size_t kMostDevices = 64;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// A need asks for more than one row, so that giving is worth its while: twice as much
// each time while a sequence of faults goes on.
constexpr std::uint64_t kLeastAsked = 256 * kMiB;
constexpr std::uint64_t kMostAsked = 2048 * kMiB;
constexpr milliseconds kSequence{1000};
// A need without a new shortage is none any more.
constexpr milliseconds kNeedLives{300};
// A wait in vain is not repeated at once.
constexpr milliseconds kFirstPause{100}, kLongestPause{2000};
constexpr milliseconds kPlainPatience{1000};
// Between the turns of those who could give.
constexpr std::uint64_t kTurnNs = 4'000'000;
constexpr std::uint64_t kMostTurns = 3;
constexpr milliseconds kListen{50}, kListenClosely{4};
// A word that can't be obeyed at once (the process is busy) is acknowledged all the same.
constexpr milliseconds kObeyedWithin{500};

// What is answered is whole granules, so that its lowest bits can carry words: how many
// have begun to give, and how many have nothing (more).
constexpr std::uint64_t kWords = std::uint64_t{1} << 21;
constexpr std::uint64_t kBegun = 1;
constexpr std::uint64_t kRefusal = std::uint64_t{1} << 11;

NeedSeen::Kind kind_of(segment::NeedKind kind) {
  switch (kind) {
    case segment::NeedKind::kRestore:
      return NeedSeen::Kind::kRestore;
    case segment::NeedKind::kPlain:
      return NeedSeen::Kind::kPlain;
    case segment::NeedKind::kFault:
    case segment::NeedKind::kNone:
      break;
  }
  return NeedSeen::Kind::kFault;
}

segment::NeedKind kind_of(Lack lack) {
  switch (lack) {
    case Lack::kRestore:
      return segment::NeedKind::kRestore;
    case Lack::kPlain:
      return segment::NeedKind::kPlain;
    case Lack::kFault:
      break;
  }
  return segment::NeedKind::kFault;
}

NeedSeen seen(const segment::NeighbourNeed& need) {
  return {need.need.bytes, kind_of(need.need.kind), need.priority, need.need.posted_ns};
}

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from > what ? from - what : 0; }

bool sees_physical(const Runtime& runtime) {
  return runtime.options().memory_view == config::MemoryView::kPhysical;
}

std::uint64_t held_by(const segment::Figures& f) {
  return f.resident + f.device_cached + f.other_bytes;
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

  bool ask(Lack lack, std::uint64_t bytes) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr || !anyone_else()) return false;
    const auto now = Clock::now();
    std::lock_guard lock(mutex_);
    Want& want = wants_[static_cast<std::size_t>(lack)];
    if (lack == Lack::kPlain) {
      want.bytes = bytes;
    } else {
      const bool sequence = want.got && now - want.asked < kSequence;
      if (now >= want.until) {
        want.step = sequence ? std::min(want.step * 2, kMostAsked) : kLeastAsked;
      }
      want.bytes = std::max(bytes, want.step);
    }
    want.asked = now;
    want.until = now + (lack == Lack::kPlain ? 2 * kPlainPatience : kNeedLives);
    post(*owner, now);
    return now >= want.dont_wait_until;
  }

  std::uint64_t needed_before_us() noexcept override {
    const segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr || !asks_.load()) return 0;
    NeedSeen ours;
    {
      std::lock_guard lock(mutex_);
      ours = posted_;
    }
    ours.priority = priority_.load();
    std::uint64_t before = 0;
    for (const segment::NeighbourNeed& need : owner->needs()) {
      if (served_before(seen(need), ours)) before += need.need.bytes;
    }
    return before;
  }

  Answers answers() noexcept override {
    const segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr) return {0, true};
    const segment::Answers said = owner->answers();
    const std::uint64_t begun = said.bytes % kRefusal;
    return {said.bytes - said.bytes % kWords + begun,
            said.bytes % kWords / kRefusal >= others_.load()};
  }

  void ended(Lack lack, bool got) noexcept override {
    const auto now = Clock::now();
    std::lock_guard lock(mutex_);
    Want& want = wants_[static_cast<std::size_t>(lack)];
    want.got = got;
    if (got) {
      want.pause = kFirstPause;
      want.dont_wait_until = {};
    } else {
      want.dont_wait_until = now + want.pause;
      want.pause = std::min<Clock::duration>(want.pause * 2, kLongestPause);
    }
    // What faults and restores lack is wanted on: the next ones will come. An allocation
    // is over.
    if (lack == Lack::kPlain) want.until = {};
    if (segment::Owner* const owner = membership_of(device_)) post(*owner, now);
  }

  bool anyone_asks() noexcept override { return asks_.load(std::memory_order_relaxed); }

  std::uint64_t asked_of_us(const vmm::Giver& us) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr) return 0;
    try {
      std::vector<NeedSeen> needs;
      std::uint64_t oldest = UINT64_MAX;
      for (const segment::NeighbourNeed& need : owner->needs()) {
        needs.push_back(seen(need));
        oldest = std::min(oldest, need.need.posted_ns);
      }
      if (needs.empty()) return 0;
      const std::uint64_t wanted = uncovered(needs, us.gpu_free, us.floor, us.idle_ms);
      if (wanted == 0) return 0;
      if (us.spare == 0 || us.idle_ms < kLeastIdleMs) {
        gave(0);
        return 0;
      }
      const std::uint64_t before = std::min(kMostTurns, turn(*owner, us));
      const std::uint64_t now = segment::monotonic_ns();
      if (now > oldest && now - oldest < before * kTurnNs) return 0;
      return std::min(wanted, us.spare);
    } catch (const std::bad_alloc&) {
      return 0;
    }
  }

  void begins_to_give() noexcept override {
    segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr) return;
    for (const segment::NeighbourNeed& need : owner->needs()) owner->answer(need, kBegun);
  }

  void gave(std::uint64_t bytes) noexcept override {
    segment::Owner* const owner = membership_of(device_);
    if (owner == nullptr) return;
    std::vector<segment::NeighbourNeed> needs = owner->needs();
    if (bytes == 0) {
      for (const segment::NeighbourNeed& need : needs) {
        Refused& last = refused_[need.index];
        if (last.claim == need.claim && last.serial == need.need.serial) continue;
        last = {need.claim, need.need.serial};
        owner->answer(need, kRefusal);
      }
      return;
    }
    std::sort(needs.begin(), needs.end(),
              [](const auto& a, const auto& b) { return served_before(seen(a), seen(b)); });
    for (const segment::NeighbourNeed& need : needs) {
      const std::uint64_t part = std::min(bytes, need.need.bytes);
      if (part >= kWords) owner->answer(need, part & ~(kWords - 1));
      bytes -= part;
    }
  }

  void start() {
    if (!started_.exchange(true)) {
      std::thread([this] { listen(); }).detach();
    }
  }

 private:
  struct Want {
    std::uint64_t bytes = 0, step = kLeastAsked;
    Clock::time_point asked{}, until{}, dont_wait_until{};
    Clock::duration pause = kFirstPause;
    bool got = false;
  };
  struct Refused {
    std::uint64_t claim = 0, serial = 0;
  };
  struct Word {
    InForce in_force;
    Clock::time_point until;
  };

  // mutex_ held. The most urgent kind, all bytes; again only when it is more than what
  // stands there, so that who waits keeps his turn.
  void post(segment::Owner& owner, Clock::time_point now) noexcept {
    std::uint64_t bytes = 0;
    std::optional<Lack> most;
    for (std::size_t i = 0; i < wants_.size(); ++i) {
      if (now >= wants_[i].until) continue;
      bytes += wants_[i].bytes;
      most = static_cast<Lack>(i);
    }
    if (!most) {
      if (posted_.bytes != 0) owner.clear_need();
      posted_ = {};
      return;
    }
    const NeedSeen::Kind kind = kind_of(kind_of(*most));
    if (posted_.bytes >= bytes && posted_.kind == kind) return;
    owner.post_need(bytes, kind_of(*most));
    posted_ = {bytes, kind, 0, segment::monotonic_ns()};
  }

  std::uint64_t turn(const segment::Owner& owner, const vmm::Giver& us) const {
    std::vector<GiverSeen> others;
    for (const segment::NeighbourState& state : owner.states()) {
      const segment::Figures& f = state.figures;
      const std::uint64_t spare = less(held_by(f), state.settings.reserve);
      others.push_back({state.settings.priority, f.idle_ms,
                        state.settings.paused != 0 ? 0 : std::min(spare, f.resident), state.index});
    }
    return givers_before({priority_.load(), us.idle_ms, us.spare, owner.index()}, others);
  }

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
    {
      std::lock_guard lock(mutex_);
      post(owner, Clock::now());
    }
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
  std::atomic<bool> started_{false}, asks_{false};
  std::atomic<std::size_t> others_{0};
  std::atomic<std::int64_t> priority_{0};
  std::mutex mutex_;
  std::array<Want, 3> wants_;
  NeedSeen posted_;
  std::array<Refused, segment::kRecords> refused_{};  // the releasing thread's
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
      for (const segment::NeighbourState& state : owner->states()) {
        bytes += state.figures.resident + state.figures.device_cached;
      }
      return bytes;
    }
    const std::string uuid = uuid_of(device);
    for (const segment::GpuSnapshot& gpu : segment::read_all(options.segment_dir)) {
      if (gpu.uuid != uuid) continue;
      for (const segment::RecordSnapshot& record : gpu.records) {
        if (record.live) bytes += record.figures.resident + record.figures.device_cached;
      }
    }
  } catch (...) {
  }
  return bytes;
}

bool neighbours_make_way(Runtime& runtime, CUdevice device, std::uint64_t bytes) noexcept {
  if (!runtime.options().segment || elastic_elsewhere(runtime, device) == 0) return false;
  Neighbours* const others = neighbours(device);
  if (others == nullptr) return false;
  // A process that has no pool yet becomes a member now: it loads its weights.
  want_membership(device);
  start_status();
  const auto end = Clock::now() + kPlainPatience;
  const auto free_bytes = [&]() -> std::uint64_t {
    std::size_t free = 0, total = 0;
    return runtime.driver().cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS ? free : 0;
  };
  while (!others->anyone_else() && Clock::now() < end) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  if (!others->ask(Lack::kPlain, bytes)) return false;
  bool got = false;
  while (!got && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    got = free_bytes() >= bytes + others->needed_before_us();
  }
  others->ended(Lack::kPlain, got);
  return got || free_bytes() >= bytes;
}

}  // namespace kvshim::preload
