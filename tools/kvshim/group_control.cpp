#include "tools/kvshim/group_control.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "segment/layout.h"
#include "tools/kvshim/control_rules.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/snapshot.h"
#include "tools/kvshim/target.h"

namespace kvshim::cli {
namespace {

struct GroupOnGpu {
  const segment::GpuSnapshot* gpu = nullptr;
  std::uint64_t total = 0;
  std::uint64_t other = 0;  // what its members have beside their pools
  std::size_t members = 0;
};

bool is_member(const segment::RecordSnapshot& record, const std::string& group) {
  return record.live && (group == "*" || record.control.group.str() == group);
}

bool is_set(const segment::GpuSnapshot& gpu, const std::string& group) {
  return std::any_of(gpu.groups.begin(), gpu.groups.end(),
                     [&](const segment::Control& one) { return one.group.str() == group; });
}

/// The group on each GPU that has living processes, members or not: a group can be steered
/// before its processes start. And on each where something is set of it: that outlives its
/// members and can be lifted then.
std::vector<GroupOnGpu> places_of(const std::vector<segment::GpuSnapshot>& segments,
                                  const std::string& group, const std::string& gpu) {
  std::vector<GroupOnGpu> places;
  for (const segment::GpuSnapshot* segment : chosen_gpus(segments, gpu)) {
    GroupOnGpu place{segment, 0, 0, 0};
    bool wanted = is_set(*segment, group);
    for (const segment::RecordSnapshot& record : segment->records) {
      if (!record.live) continue;
      wanted = true;
      place.total = std::max(place.total, record.identity.gpu_total);
      if (!is_member(record, group)) continue;
      place.other += record.figures.other_bytes;
      ++place.members;
    }
    if (wanted) places.push_back(place);
  }
  if (places.empty()) all_targets(segments, gpu);  // says why there are none
  return places;
}

void check_amount(const GroupOnGpu& place, const std::string& group, std::uint64_t bytes,
                  bool is_limit) {
  if (place.total != 0 && bytes > place.total) {
    throw Failure(Exit::kRefused, long_bytes(bytes) + " is more than " + place.gpu->uuid +
                                      " has (" + long_bytes(place.total) + ")");
  }
  if (is_limit && bytes != 0 && bytes < place.other) {
    throw Failure(Exit::kRefused, "a limit of " + long_bytes(bytes) + " is below what group " +
                                      printable(group) + " has beside its pools (" +
                                      long_bytes(place.other) + "), which can't be released");
  }
}

/// Whether one more group would be needed where all are in use.
void check_room(const GroupOnGpu& place, const std::string& group,
                const segment::ControlChange& change) {
  const bool sets = change.limit.value_or(0) != 0 || change.reserve.value_or(0) != 0 ||
                    change.priority.value_or(0) != 0 || change.paused.value_or(false);
  if (sets && !is_set(*place.gpu, group) && place.gpu->groups.size() >= segment::kGroups) {
    throw Failure(Exit::kRefused, place.gpu->uuid + ": " + segment::groups_full());
  }
}

[[noreturn]] void fail(const segment::GpuSnapshot& gpu, const std::string& reason) {
  const std::string text = printable(gpu.uuid + ": " + reason, 1024);
  if (reason == segment::groups_full()) throw Failure(Exit::kRefused, text);
  const bool denied = ::access(gpu.path.c_str(), R_OK | W_OK) != 0;
  throw Failure(denied ? Exit::kNoPermission : Exit::kCannotWrite, text);
}

std::string what_was_done(const Invocation& invocation, std::size_t members) {
  const std::string processes =
      std::to_string(members) + (members == 1 ? " process" : " processes");
  if (invocation.command == "release") return "asked its " + processes + " to release what is idle";
  return "recorded for its " + processes + " and those to come";
}

segment::ControlChange change_for(const Invocation& invocation, const GroupOnGpu& place,
                                  const std::string& group) {
  segment::ControlChange change;
  if (invocation.command == "limit") {
    change.limit = read_amount(invocation.value, place.total);
    check_amount(place, group, *change.limit, true);
  } else if (invocation.command == "reserve") {
    change.reserve = read_amount(invocation.value, place.total);
    check_amount(place, group, *change.reserve, false);
  } else if (invocation.command == "priority") {
    change.priority = invocation.priority;
  } else if (invocation.command == "release") {
    change.release_now = true;
  } else {
    change.paused = invocation.command == "pause";
  }
  check_room(place, group, change);
  return change;
}

}  // namespace

Exit run_group_control(const Invocation& invocation) {
  const std::string group = invocation.target.substr(1);
  constexpr std::size_t kRoom = sizeof(segment::Control{}.group.bytes);
  if (group.empty() || segment::Text<kRoom>(group).str() != group) {
    throw Failure(Exit::kUsage,
                  "@ and the name of a group are expected, at most " + std::to_string(kRoom - 1) +
                      " bytes without control characters; @* is all processes of this user");
  }
  const auto segments = read_segments();
  const std::vector<GroupOnGpu> places = places_of(segments, group, invocation.gpu);
  std::vector<segment::ControlChange> changes;  // all checked before the first is made
  changes.reserve(places.size());
  for (const GroupOnGpu& place : places) changes.push_back(change_for(invocation, place, group));
  nlohmann::json documents = nlohmann::json::array();
  for (std::size_t i = 0; i < places.size(); ++i) {
    const segment::GpuSnapshot& gpu = *places[i].gpu;
    const std::string reason = segment::set_group_control(gpu, group, changes[i]);
    if (!reason.empty()) fail(gpu, reason);
    documents.push_back({{"group", group},
                         {"gpu", gpu.uuid},
                         {"members", places[i].members},
                         {"state", "recorded"}});
    if (!invocation.json) {
      std::printf("group %s on %s: %s\n", printable(group).c_str(),
                  printable(gpu.uuid.substr(0, 12)).c_str(),
                  what_was_done(invocation, places[i].members).c_str());
    }
  }
  if (invocation.json) print_json({{"changes", documents}});
  return Exit::kDone;
}

}  // namespace kvshim::cli
