// Joining a segment, staying in it, leaving it.
#include "segment/owner.h"

#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "segment/bell.h"
#include "segment/file_lock.h"
#include "segment/layout.h"
#include "segment/segment_file.h"

namespace kvshim::segment {
namespace {

constexpr std::chrono::milliseconds kControlPatience{200};
constexpr std::uint64_t kSweepEvery = 1'000'000'000;     // ns
constexpr std::uint64_t kRetryEvery = 5'000'000'000;     // ns
constexpr std::chrono::milliseconds kUsersPatience{50};  // for one fstat

/// Counts the calling thread among those who look at the descriptor without the mutex.
class DescriptorUse {
 public:
  explicit DescriptorUse(std::atomic<int>& users) : users_(users) { users_.fetch_add(1); }
  ~DescriptorUse() { users_.fetch_sub(1); }
  DescriptorUse(const DescriptorUse&) = delete;
  DescriptorUse& operator=(const DescriptorUse&) = delete;

 private:
  std::atomic<int>& users_;
};

std::uint64_t new_claim() {
  std::uint64_t claim = 0;
  if (getrandom(&claim, sizeof(claim), GRND_NONBLOCK) != sizeof(claim)) {
    claim = monotonic_ns() ^ (static_cast<std::uint64_t>(getpid()) << 40);
  }
  return claim != 0 ? claim : 1;
}

Control clamped(Control control) {
  control.priority = std::clamp(control.priority, -kMostPriority, kMostPriority);
  return control;
}

}  // namespace

Owner::Owner(const std::string& folder, const std::string& uuid, const Identity& identity,
             const Control& initial)
    : folder_(folder),
      uuid_(uuid),
      path_(folder_or_default(folder) + "/" + file_name(geteuid(), uuid)),
      identity_(identity),
      control_(clamped(initial)) {}

std::unique_ptr<Owner> Owner::attach(const std::string& folder, const std::string& uuid,
                                     const Identity& identity, const Control& initial, Tick* said,
                                     std::string* why) {
  if (!is_uuid_text(uuid)) {
    *why = "\"" + uuid + "\" is not the UUID of a GPU";
    return nullptr;
  }
  std::unique_ptr<Owner> owner(new Owner(folder, uuid, identity, initial));
  std::lock_guard lock(owner->mutex_);
  return owner->join(said, why) ? std::move(owner) : nullptr;
}

Owner::~Owner() {
  detach();
  if (segment_ != nullptr) munmap(segment_, sizeof(Segment));
}

bool Owner::safe() const noexcept {
  const DescriptorUse use(descriptor_users_);
  // Sequentially consistent, as the count is: either we find it gone or its closer
  // finds us.
  const int file = descriptor_.load();
  if (file < 0) return true;  // zeros are there by then
  const FileState state = state_of(file);
  return state.open && state.identity == FileIdentity{device_.load(), inode_.load()} &&
         state.size == static_cast<std::int64_t>(sizeof(Segment));
}

Record* Owner::own() const noexcept {
  const std::uint64_t claim = claim_.load(std::memory_order_acquire);
  if (claim == 0 || !safe()) return nullptr;
  Record& record = segment_->records[index_.load(std::memory_order_relaxed)].record;
  return record.claim.load(std::memory_order_acquire) == claim ? &record : nullptr;
}

// REQUIRES: the record's lock.
bool Owner::take_record(Segment& segment, int file, std::size_t index, std::uint64_t claim) {
  Record& record = segment.records[index].record;
  record.claim.store(0, std::memory_order_release);
  {
    const HeldLock steering(file, control_lock(index), kControlPatience);
    if (!steering) return false;
    record.need.write(need_);
    record.figures.write(figures_);
    record.answers.store(0, std::memory_order_relaxed);
    record.answered_bytes.store(0, std::memory_order_relaxed);
    record.quota.store(0, std::memory_order_relaxed);
    record.quota_wanted.store(0, std::memory_order_relaxed);
    record.held.store(held_.load(), std::memory_order_relaxed);
    identity_.attached_ns = monotonic_ns();
    record.identity.write(identity_);
    record.control.commit(control_, record_place(index, claim));
    control_generation_ = record.control.generation();
    settings_.control_generation = 0;
    record.settings.write(settings_);
    record.claim.store(claim, std::memory_order_release);
  }
  index_.store(index, std::memory_order_relaxed);
  // A ring before this moment was another's; one after it must not look like the last one
  // heard on another bell.
  bell_seen_.store(record.bell.load() - 1, std::memory_order_relaxed);
  claim_.store(claim, std::memory_order_release);
  write_held();  // it may have changed since
  return true;
}

bool Owner::take_any_record(Segment& segment, std::string* why) {
  const int file = descriptor_.load();
  // Our own first, when it is still as we left it (the host closed the
  // descriptor): nobody need learn of it.
  const std::uint64_t claim = claim_.load();
  const std::size_t last = index_.load();
  if (claim != 0 && segment.records[last].record.claim.load() == claim &&
      try_lock(file, record_lock(last))) {
    if (segment.records[last].record.claim.load() == claim) return true;
    unlock(file, record_lock(last));
  }
  claim_.store(0);
  for (std::size_t i = 0; i < kRecords; ++i) {
    if (!try_lock(file, record_lock(i))) continue;
    if (take_record(segment, file, i, new_claim())) return true;
    unlock(file, record_lock(i));
  }
  *why = path_ + ": all " + std::to_string(kRecords) + " records are taken";
  return false;
}

bool Owner::join(Tick* said, std::string* why) {
  if (!open_segment(folder_, uuid_, &descriptor_, &said->problems, why)) return false;
  const FileIdentity identity = state_of(descriptor_.load()).identity;
  device_.store(identity.device);
  inode_.store(identity.inode);
  std::string problem;
  Segment* segment = map_segment(path_, identity, segment_, &problem);
  if (segment == nullptr) {
    *why = path_ + " can't be mapped: " + problem;
  } else {
    segment_ = segment;
    if (take_any_record(*segment, why)) return true;
  }
  leave_descriptor();
  return false;
}

// Closes the descriptor unless the host has closed it and the number is
// another file's by now, or somebody who looks at it doesn't come to an end (then
// it stays open, without its lock). Without a descriptor nobody checks the file's
// size before touching it: the memory is zeros before that.
void Owner::leave_descriptor() noexcept {
  if (segment_ != nullptr) replace_by_zeros(segment_);
  const int file = descriptor_.exchange(-1);
  if (file < 0) return;
  const FileState state = state_of(file);
  if (!state.open || state.identity != FileIdentity{device_.load(), inode_.load()}) return;
  // A copy in a child that was made past our fork handler doesn't keep it then.
  if (claim_.load() != 0) unlock(file, record_lock(index_.load()));
  const auto end = std::chrono::steady_clock::now() + kUsersPatience;
  while (descriptor_users_.load() != 0) {
    if (std::chrono::steady_clock::now() > end) return;
    std::this_thread::yield();
  }
  close(file);
}

void Owner::publish(const Figures& figures, const Settings& settings) noexcept {
  std::lock_guard lock(mutex_);
  figures_ = figures;
  settings_ = settings;
  if (Record* record = own()) {
    record->settings.write(settings_);
    record->figures.write(figures_);
  }
}

void Owner::holds(std::uint64_t bytes) noexcept {
  held_.store(bytes);
  write_held();
}

// Of several threads the last one to write has seen the last word.
void Owner::write_held() noexcept {
  Record* const record = own();
  if (record == nullptr) return;
  std::uint64_t written = held_.load();
  for (;;) {
    record->held.store(written);
    const std::uint64_t now = held_.load();
    if (now == written) return;
    written = now;
  }
}

// Why the segment must be joined anew; empty: all is well.
std::string Owner::damage() const {
  const FileState state = state_of(descriptor_.load());
  if (!state.open || state.identity != FileIdentity{device_.load(), inode_.load()}) {
    return "this process has closed its descriptor";
  }
  // Before anything of it is touched.
  if (state.size != static_cast<std::int64_t>(sizeof(Segment))) return "it was truncated";
  if (!names(path_, state.identity)) return "its file was removed or replaced";
  HeaderContents expected;
  expected.total_bytes = sizeof(Segment);
  expected.record_bytes = kRecordBytes;
  expected.uuid = uuid_;
  expected.made_ns = read_header(*segment_).made_ns;
  if (!header_intact(*segment_, expected)) return "its header was overwritten";
  if (own() == nullptr) return "this process's record was taken away";
  return {};
}

Tick Owner::tick() {
  Tick said;
  std::lock_guard lock(mutex_);
  if (ended_) return said;
  std::string problem;
  if (claim_.load() != 0) {
    problem = damage();
    if (problem.empty()) {
      refresh_control(&said);
      clear_dead(&said);
      return said;
    }
    leave_descriptor();
    if (problem != "this process has closed its descriptor") claim_.store(0);
  } else if (monotonic_ns() - tried_ns_ < kRetryEvery) {
    return said;
  }
  tried_ns_ = monotonic_ns();
  std::string why;
  if (join(&said, &why)) {
    said.news.push_back("the segment " + path_ + " was joined anew" +
                        (problem.empty() ? std::string() : ": " + problem));
    told_.clear();
    return said;
  }
  claim_.store(0);
  if (why != told_) {
    told_ = why;
    said.problems.push_back("neighbours and tools can't see this process: " + why);
  }
  return said;
}

// Keeps the last valid control at hand: when the segment turns out to be
// damaged, it must not be touched for it.
void Owner::refresh_control(Tick* said) {
  Record* record = own();
  if (record == nullptr || record->control.generation() == control_generation_) return;
  Control read;
  std::uint64_t generation = 0;
  const std::size_t index = index_.load();
  const std::uint64_t place = record_place(index, claim_.load());
  control_locked(nullptr);
  if (record->control.generation() == control_generation_) return;
  const HeldLock steering(descriptor_.load(), control_lock(index), std::chrono::milliseconds(0));
  if (!steering || read_whole(record->control, place, &read, &generation)) return;
  record->control.commit(control_, place);
  control_generation_ = record->control.generation();
  said->problems.push_back("the control in " + path_ + " was corrupt; what held before holds on");
}

// A dead process's record counts for nothing already; this makes room and tells.
void Owner::clear_dead(Tick* said) {
  const std::uint64_t now = monotonic_ns();
  if (now - swept_ns_ < kSweepEvery) return;
  swept_ns_ = now;
  const int file = descriptor_.load();
  const FileIdentity ours{device_.load(), inode_.load()};
  for (std::size_t i = 0; i < kRecords; ++i) {
    Record& record = segment_->records[i].record;
    if (i == index_.load() || record.claim.load() == 0 || !try_lock(file, record_lock(i))) {
      continue;
    }
    // The descriptor may have become another file's a moment ago: that file's
    // lock says nothing about this record.
    if (state_of(file).identity != ours) return;
    if (record.claim.load() != 0) {
      Identity identity;
      if (!read_whole(record.identity, &identity)) identity = {};
      record.claim.store(0, std::memory_order_release);
      record.need.write({});
      said->news.push_back("process " + std::to_string(identity.pid) + " (" + identity.name.str() +
                           ") has died; its record is free");
      said->died.push_back(identity);
    }
    unlock(file, record_lock(i));
  }
}

void Owner::detach() noexcept {
  std::lock_guard lock(mutex_);
  ended_ = true;
  if (Record* record = own()) {
    record->claim.store(0, std::memory_order_release);
    record->need.write({});
  }
  leave_descriptor();
  claim_.store(0);
}

void Owner::abandon_after_fork() noexcept {
  const int file = descriptor_.exchange(-1);
  if (file < 0) return;
  const FileState state = state_of(file);
  if (state.open && state.identity == FileIdentity{device_.load(), inode_.load()}) close(file);
}

bool Owner::attached() const noexcept { return claim_.load() != 0; }
std::size_t Owner::index() const noexcept { return index_.load(); }
std::uint64_t Owner::claim() const noexcept { return claim_.load(); }

}  // namespace kvshim::segment
