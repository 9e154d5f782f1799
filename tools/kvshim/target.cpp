#include "tools/kvshim/target.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <tuple>

#include "segment/contents.h"
#include "tools/kvshim/outcome.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/process_name.h"
#include "tools/kvshim/snapshot.h"
#include "tools/kvshim/snapshot_source.h"

namespace kvshim::cli {
namespace {

std::optional<std::int64_t> as_number(const std::string& text) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

std::string name_of(const segment::RecordSnapshot& record) {
  return display_name(record.identity.name.str(), record.identity.command_line.str());
}

/// What makes two records those of one process.
auto process_of(const segment::RecordSnapshot& record) {
  return std::tuple(record.identity.boot, record.identity.pid_namespace, record.identity.pid,
                    record.identity.start_time);
}

bool is_gpu(const segment::GpuSnapshot& segment, std::size_t place, const std::string& gpu) {
  if (gpu.empty()) return true;
  if (const auto index = as_number(gpu)) return place == static_cast<std::size_t>(*index);
  return segment.uuid == gpu || (gpu.size() >= 6 && segment.uuid.starts_with(gpu)) ||
         (gpu.size() >= 4 && segment.uuid.starts_with("GPU-" + gpu));
}

std::vector<Target> living(const std::vector<segment::GpuSnapshot>& segments,
                           const std::string& gpu) {
  std::vector<Target> targets;
  for (const segment::GpuSnapshot* segment : chosen_gpus(segments, gpu)) {
    for (const segment::RecordSnapshot& record : segment->records) {
      if (!record.live) continue;
      targets.push_back({segment, &record,
                         std::to_string(record.identity.pid) + " (" + name_of(record) + ") on " +
                             printable(segment->uuid.substr(0, 12))});
    }
  }
  return targets;
}

[[noreturn]] void fail_with_nothing(const std::vector<segment::GpuSnapshot>& segments,
                                    const std::string& target) {
  if (const auto pid = as_number(target)) {
    const std::int64_t user = user_of(*pid);
    if (user >= 0 && user != static_cast<std::int64_t>(::geteuid())) {
      throw Failure(Exit::kNoPermission, "process " + target + " belongs to user " +
                                             std::to_string(user) +
                                             "; only that user can steer it");
    }
  }
  for (const segment::GpuSnapshot& segment : segments) {
    if (segment.error.empty()) continue;
    const bool denied = ::access(segment.path.c_str(), F_OK) == 0 &&
                        ::access(segment.path.c_str(), R_OK | W_OK) != 0;
    throw Failure(denied ? Exit::kNoPermission : Exit::kForeignSegment,
                  printable(segment.path + ": " + segment.error, 1024) +
                      "; use the kvshim that belongs to the running engines");
  }
  if (target.empty()) {
    throw Failure(Exit::kNoProcess,
                  "no process of this user runs under kvshim with pools; start one with kvwrap");
  }
  const auto pid = as_number(target);
  if (pid && process_exists(*pid)) {
    throw Failure(Exit::kNoProcess,
                  "process " + target +
                      " runs, but has no pools under kvshim; kvshim doctor --pid " + target +
                      " tells why");
  }
  throw Failure(Exit::kNoProcess, std::string(pid ? "there is no process "
                                                  : "no process under "
                                                    "kvshim is named ") +
                                      printable(target) + "; kvshim list shows those there are");
}

}  // namespace

std::vector<segment::GpuSnapshot> read_segments() {
  std::string error;
  auto segments = segment::read_all(segment_folder(), ::geteuid(), &error);
  if (!error.empty()) throw Failure(Exit::kNoPermission, printable(error, 1024));
  return segments;
}

std::vector<const segment::GpuSnapshot*> chosen_gpus(
    const std::vector<segment::GpuSnapshot>& segments, const std::string& gpu) {
  std::vector<const segment::GpuSnapshot*> chosen;
  for (std::size_t place = 0; place < segments.size(); ++place) {
    if (is_gpu(segments[place], place, gpu)) chosen.push_back(&segments[place]);
  }
  if (chosen.empty() && !gpu.empty()) {
    std::string known;
    for (const auto& segment : segments) known += (known.empty() ? "" : ", ") + segment.uuid;
    throw Failure(Exit::kNoProcess, "no process under kvshim is on GPU " + printable(gpu) +
                                        (known.empty() ? std::string() : "; there is " + known));
  }
  return chosen;
}

std::vector<Target> all_targets(const std::vector<segment::GpuSnapshot>& segments,
                                const std::string& gpu) {
  std::vector<Target> targets = living(segments, gpu);
  if (targets.empty()) fail_with_nothing(segments, {});
  return targets;
}

std::vector<Target> find_targets(const std::vector<segment::GpuSnapshot>& segments,
                                 const std::string& target, const std::string& gpu) {
  const std::vector<Target> all = living(segments, gpu);
  std::vector<Target> found;
  const auto keep = [&](auto&& matches) {
    if (!found.empty()) return;
    std::copy_if(all.begin(), all.end(), std::back_inserter(found), matches);
  };
  if (const auto pid = as_number(target)) {
    // Containers count from 1, each for itself: a number is first of all one that is seen here.
    keep([&](const Target& one) {
      return one.record->identity.pid == *pid && segment::is_running_here(one.record->identity);
    });
    keep([&](const Target& one) { return one.record->identity.pid == *pid; });
  }
  keep([&](const Target& one) { return name_of(*one.record) == target; });
  keep([&](const Target& one) {
    return !target.empty() && name_of(*one.record).starts_with(target);
  });
  if (found.empty()) fail_with_nothing(segments, target);
  const auto first = process_of(*found.front().record);
  const bool one_process = std::all_of(found.begin(), found.end(), [&](const Target& other) {
    return process_of(*other.record) == first;
  });
  if (!one_process) {
    std::string labels;
    for (const Target& one : found) labels += (labels.empty() ? "" : ", ") + one.label;
    throw Failure(Exit::kAmbiguous,
                  printable(target) + " can be " + labels + "; give the process id");
  }
  return found;
}

}  // namespace kvshim::cli
