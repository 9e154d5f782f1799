// A tool's word to a process or to a group.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "segment/bell.h"
#include "segment/file_lock.h"
#include "segment/layout.h"
#include "segment/reader.h"
#include "segment/segment_file.h"

namespace kvshim::segment {
namespace {

constexpr std::chrono::milliseconds kPatience{1000};
constexpr const char* kGone = "the process is gone (nothing was changed)";
constexpr const char* kBusy = "another tool has been writing for a second and doesn't go on";

// The segment of a snapshot, open for writing, as long as this object lives.
class WritableSegment {
 public:
  explicit WritableSegment(const GpuSnapshot& gpu) {
    file_ = open(gpu.path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (file_ < 0) {
      problem_ = gpu.path + " can't be opened: " + std::strerror(errno);
      return;
    }
    // Of the file's owner, not of the caller: root may steer everybody's.
    struct stat info {};
    if (fstat(file_, &info) == 0 && info.st_uid != geteuid() && geteuid() != 0) {
      problem_ = gpu.path + " belongs to somebody else";
      return;
    }
    problem_ = not_ours(file_, info.st_uid);
    if (problem_.empty() && check_header(file_, gpu.uuid, &problem_) == HeaderState::kValid) {
      segment_ = map_segment(gpu.path, state_of(file_).identity, nullptr, &problem_);
    }
    if (segment_ == nullptr) problem_ = gpu.path + " can't be used: " + problem_;
  }
  ~WritableSegment() {
    if (segment_ != nullptr) munmap(segment_, sizeof(Segment));
    if (file_ >= 0) close(file_);
  }
  WritableSegment(const WritableSegment&) = delete;
  WritableSegment& operator=(const WritableSegment&) = delete;

  const std::string& problem() const { return problem_; }
  int file() const { return file_; }
  Segment* operator->() const { return segment_; }
  /// Null: not the process it was, or dead.
  Record* living(const RecordSnapshot& record) const {
    if (record.index >= kRecords || record.claim == 0) return nullptr;
    Record& found = segment_->records[record.index].record;
    return found.claim.load() == record.claim && locked_by_other(file_, record_lock(record.index))
               ? &found
               : nullptr;
  }

 private:
  int file_ = -1;
  Segment* segment_ = nullptr;
  std::string problem_;
};

void apply(const ControlChange& change, Control* control) {
  if (change.limit) control->limit = *change.limit;
  if (change.reserve) control->reserve = *change.reserve;
  if (change.priority) {
    control->priority = std::clamp(*change.priority, -kMostPriority, kMostPriority);
  }
  if (change.paused) control->paused = *change.paused ? 1 : 0;
  if (change.group) control->group = *change.group;
  if (change.release_now) ++control->release_requests;
  control->set_ns = monotonic_ns();
  control->set_by = change.by_configuration ? 0 : getpid();
}

// What the process says it goes by, when what it was told is unreadable.
Control from_settings(const Record& record) {
  Settings settings;
  Control control;
  if (!read_whole(record.settings, &settings)) return control;
  control.limit = settings.limit;
  control.reserve = settings.reserve;
  control.priority = settings.priority;
  control.paused = settings.paused != 0 ? 1 : 0;
  return control;
}

std::string steer_record(const WritableSegment& segment, const RecordSnapshot& record,
                         const ControlChange& change, std::uint64_t* generation) {
  if (segment.living(record) == nullptr) return kGone;
  {
    const HeldLock steering(segment.file(), control_lock(record.index), kPatience);
    if (!steering) return kBusy;
    // Whoever takes the record over needs this lock too: it stays who it is now.
    Record* found = segment.living(record);
    if (found == nullptr) return kGone;
    const std::uint64_t place = record_place(record.index, record.claim);
    Control control;
    std::uint64_t before = 0;
    if (!read_whole(found->control, place, &control, &before)) control = from_settings(*found);
    apply(change, &control);
    found->control.commit(control, place);
    if (generation != nullptr) *generation = found->control.generation();
  }
  ring_bell(segment->records[record.index].record.bell);
  return {};
}

std::string change_group(const WritableSegment& segment, const std::string& group,
                         const ControlChange& change) {
  // One lock for all groups, so that two tools don't make the same one twice.
  const HeldLock steering(segment.file(), group_lock(0), kPatience);
  if (!steering) return kBusy;
  std::size_t chosen = kGroups;
  bool known = false, unused = false;
  Control control;
  for (std::size_t j = 0; j < kGroups && !known; ++j) {
    Control read;
    std::uint64_t generation = 0;
    const bool valid = read_whole(segment->groups[j].control, group_place(j), &read, &generation);
    known = valid && read.group.str() == group;
    if (known) control = read;
    // A cell that was never used before a lifted one, which tells that it was lifted.
    const bool better = valid ? chosen == kGroups && says_nothing(read) : !unused;
    if (known || better) chosen = j;
    unused |= !valid;
  }
  apply(change, &control);
  if (!known && says_nothing(control)) return {};  // nothing is lifted where nothing was set
  if (chosen == kGroups) return groups_full();
  control.group = group;
  segment->groups[chosen].control.commit(control, group_place(chosen));
  return {};
}

bool is_member(const Record& record, std::size_t index, std::uint64_t claim,
               const std::string& group) {
  if (group == "*") return true;
  Control control;
  std::uint64_t generation = 0;
  return read_whole(record.control, record_place(index, claim), &control, &generation) &&
         control.group.str() == group;
}

// To each member by itself: a counter in the group's cell would have to outlive everything
// else that is said there, and would go down for the members when the cell is given away.
std::string release_members(const WritableSegment& segment, const std::string& group) {
  ControlChange change;
  change.release_now = true;
  std::string problem;
  for (std::size_t i = 0; i < kRecords; ++i) {
    RecordSnapshot member;
    member.index = i;
    member.claim = segment->records[i].record.claim.load();
    if (member.claim == 0) continue;
    if (!is_member(segment->records[i].record, i, member.claim, group)) continue;
    const std::string reason = steer_record(segment, member, change, nullptr);
    if (!reason.empty() && reason != kGone) problem = reason;
  }
  return problem;
}

}  // namespace

std::string set_control(const GpuSnapshot& gpu, const RecordSnapshot& record,
                        const ControlChange& change, std::uint64_t* generation) {
  const WritableSegment segment(gpu);
  if (!segment.problem().empty()) return segment.problem();
  return steer_record(segment, record, change, generation);
}

bool says_nothing(const Control& control) {
  return control.limit == 0 && control.reserve == 0 && control.priority == 0 && control.paused == 0;
}

std::string groups_full() {
  return "all " + std::to_string(kGroups) +
         " groups are in use (kvshim list shows them); to free the one named NAME: kvshim limit "
         "@NAME none, kvshim reserve @NAME none, kvshim priority @NAME 0, kvshim resume @NAME";
}

std::string set_group_control(const GpuSnapshot& gpu, const std::string& group,
                              const ControlChange& change) {
  if (group.empty() || Text<48>(group).str() != group) {
    return "a group's name has 1 to 47 printable characters";
  }
  const WritableSegment segment(gpu);
  if (!segment.problem().empty()) return segment.problem();
  if (change.limit || change.reserve || change.priority || change.paused) {
    ControlChange lasting = change;
    lasting.release_now = false;
    const std::string problem = change_group(segment, group, lasting);
    if (!problem.empty()) return problem;
    for (RecordPage& page : segment->records) {
      if (page.record.claim.load() != 0) ring_bell(page.record.bell);
    }
  }
  return change.release_now ? release_members(segment, group) : std::string();
}

std::string ring(const GpuSnapshot& gpu, const RecordSnapshot& record) {
  const WritableSegment segment(gpu);
  if (!segment.problem().empty()) return segment.problem();
  Record* found = segment.living(record);
  if (found == nullptr) return kGone;
  ring_bell(found->bell);
  return {};
}

}  // namespace kvshim::segment
