// For tools: what all segments of a user say, and a word to those who listen.
// Needs no CUDA and makes no segment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "segment/contents.h"

namespace kvshim::segment {

/// One process's record.
struct RecordSnapshot {
  std::size_t index = 0;
  std::uint64_t claim = 0;
  /// Whether the kernel says that its process lives. A dead one's figures are its
  /// last; they count for nothing.
  bool live = false;
  Identity identity;
  Figures figures;
  Settings settings;
  Need need;  // bytes 0: none
  std::uint64_t answers = 0, answered_bytes = 0;
  std::uint64_t quota = 0;  // what a group's limit leaves it; 0: there is none
  std::uint64_t held = 0;   // now: GPU memory of its pools and their caches, bytes
  Control control;
  std::uint64_t control_generation = 0;
  /// Sections that couldn't be read as a whole ("figures", ...; all zero then):
  /// the process died while writing, or what is there is no valid control.
  std::vector<std::string> missing;
  /// settings.control_generation has reached control_generation.
  bool control_heard() const { return settings.control_generation == control_generation; }
};

struct GpuSnapshot {
  std::string uuid;  // GPU-...
  std::string path;
  /// Why the segment could not be read (wrong version, not ours, truncated, ...);
  /// empty: it could. Such a one has no records.
  std::string error;
  std::uint64_t taken_ns = 0;
  std::vector<RecordSnapshot> records;  // live and dead, in order of index
  std::vector<Control> groups;          // those of which something is set, paused ones too
  /// Those of which nothing is set any more; who said so last may matter (Control::set_by).
  std::vector<Control> lifted_groups;
};

/// Every segment of `uid` in `folder` (empty: /dev/shm), ordered by uuid, but for those of
/// another layout version in which no process lives. A folder that can't be read: empty with
/// `*error`. Well under a millisecond per GPU.
std::vector<GpuSnapshot> read_all(const std::string& folder, std::uint32_t uid,
                                  std::string* error = nullptr);
/// The same, of the calling (effective) user.
std::vector<GpuSnapshot> read_all(const std::string& folder);

/// What is to change; what is not given stays.
struct ControlChange {
  std::optional<std::uint64_t> limit;
  std::optional<std::uint64_t> reserve;
  std::optional<std::int64_t> priority;  // clamped to +-kMostPriority
  std::optional<bool> paused;
  std::optional<std::string> group;
  bool release_now = false;
  /// Written with set_by = 0: a word of the configuration yields to what somebody typed.
  bool by_configuration = false;
};

/// Changes the control of a record and rings its process. Empty: done (the
/// process hears within milliseconds; see RecordSnapshot::control_heard).
/// Else the reason: the process is gone (nobody else was touched), the segment
/// can't be opened, another tool has held the lock for a second.
std::string set_control(const GpuSnapshot& gpu, const RecordSnapshot& record,
                        const ControlChange& change, std::uint64_t* generation = nullptr);
/// Whether a group's control neither limits, reserves, ranks nor pauses: its cell may then
/// become another group's.
bool says_nothing(const Control& control);
/// The reason when no cell is left for one more group, with the commands that free one.
std::string groups_full();
/// The same for a group by name ("*": all processes of the user on that GPU), made if
/// there is none by that name; rings everybody. `release_now` goes to the control of each
/// member that lives now, and leaves the group's as it is; a member whose lock another tool
/// holds is left out and is the reason returned.
std::string set_group_control(const GpuSnapshot& gpu, const std::string& group,
                              const ControlChange& change);
/// Wakes the process of a record without changing anything.
std::string ring(const GpuSnapshot& gpu, const RecordSnapshot& record);

}  // namespace kvshim::segment
