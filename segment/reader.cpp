#include "segment/reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "segment/file_lock.h"
#include "segment/layout.h"
#include "segment/record_copy.h"
#include "segment/segment_file.h"

namespace kvshim::segment {
namespace {

void read_sections(const RecordCopy& copy, RecordSnapshot* snapshot) {
  snapshot->missing.clear();
  const auto section = [&](const char* name, bool whole) {
    if (!whole) snapshot->missing.emplace_back(name);
  };
  section("identity", copy.identity(&snapshot->identity));
  section("figures", copy.figures(&snapshot->figures));
  section("settings", copy.settings(&snapshot->settings));
  section("need", copy.need(&snapshot->need));
  section("control",
          copy.control(snapshot->index, &snapshot->control, &snapshot->control_generation));
  snapshot->answers = copy.answers();
  snapshot->answered_bytes = copy.answered_bytes();
  snapshot->quota = copy.quota();
  snapshot->held = copy.held();
  if (snapshot->need.kind > NeedKind::kPlain) snapshot->need = {};
  snapshot->control.priority =
      std::clamp(snapshot->control.priority, -kMostPriority, kMostPriority);
}

// False: the file has become too short.
bool read_record(int file, std::size_t index, GpuSnapshot* gpu) {
  RecordCopy copy;
  RecordSnapshot snapshot;
  snapshot.index = index;
  // A writer that works can spoil one try, not many.
  for (int tries = 0; tries < 50; ++tries) {
    if (!copy.read(file, index)) return false;
    snapshot.claim = copy.claim();
    if (snapshot.claim == 0) {
      if (tries < 2) continue;  // free, or taken right now
      return true;
    }
    RecordSnapshot read;
    read.index = index;
    read.claim = snapshot.claim;
    read_sections(copy, &read);
    snapshot = std::move(read);
    snapshot.live = locked_by_other(file, record_lock(index));
    if (snapshot.missing.empty() || (!snapshot.live && tries > 2)) break;
    usleep(50);
  }
  gpu->records.push_back(std::move(snapshot));
  return true;
}

void read_group_controls(const std::array<Group, kGroups>& groups, GpuSnapshot* gpu) {
  for (std::size_t j = 0; j < kGroups; ++j) {
    Control control;
    std::uint64_t generation = 0;
    const Committed<Control>& cell = groups[j].control;
    if (cell.generation() == 0 || !read_whole(cell, group_place(j), &control, &generation)) {
      continue;
    }
    (says_nothing(control) ? gpu->lifted_groups : gpu->groups).push_back(control);
  }
}

/// Nothing: of another version of the layout, and no process lives in it. After an upgrade such a
/// file lies there until the next process on its GPU sets it aside, and nobody misses what it says.
std::optional<GpuSnapshot> read_segment(const std::string& path, const std::string& uuid,
                                        std::uint32_t uid) {
  GpuSnapshot gpu;
  gpu.uuid = uuid;
  gpu.path = path;
  gpu.taken_ns = monotonic_ns();
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
  if (file < 0) {
    gpu.error = errno == ELOOP ? "it is a symbolic link" : std::strerror(errno);
    return gpu;
  }
  gpu.error = not_ours(file, uid);
  if (gpu.error.empty() && check_header(file, uuid, &gpu.error) == HeaderState::kOtherVersion &&
      !locked_by_other(file, kLockBase, kLockedRecords)) {
    close(file);
    return std::nullopt;
  }
  std::array<Group, kGroups> groups{};
  bool whole = gpu.error.empty() && read_groups(file, &groups);
  if (whole) read_group_controls(groups, &gpu);
  for (std::size_t i = 0; whole && i < kRecords; ++i) whole = read_record(file, i, &gpu);
  if (!whole && gpu.error.empty()) {
    gpu.error = "it was cut short while it was read";
    gpu.records.clear();
  }
  close(file);
  return gpu;
}

}  // namespace

std::vector<GpuSnapshot> read_all(const std::string& folder, std::uint32_t uid,
                                  std::string* error) {
  std::vector<GpuSnapshot> all;
  const std::string where = folder_or_default(folder);
  DIR* directory = opendir(where.c_str());
  if (directory == nullptr) {
    if (error != nullptr) *error = where + " can't be read: " + std::strerror(errno);
    return all;
  }
  const std::string prefix = file_name(uid, "");
  while (const dirent* entry = readdir(directory)) {
    const std::string name = entry->d_name;
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string uuid = name.substr(prefix.size());
    if (!is_uuid_text(uuid)) continue;
    auto gpu = read_segment(where + "/" + name, uuid, uid);
    if (gpu) all.push_back(std::move(*gpu));
  }
  closedir(directory);
  std::sort(all.begin(), all.end(),
            [](const GpuSnapshot& a, const GpuSnapshot& b) { return a.uuid < b.uuid; });
  return all;
}

std::vector<GpuSnapshot> read_all(const std::string& folder) { return read_all(folder, geteuid()); }

}  // namespace kvshim::segment
