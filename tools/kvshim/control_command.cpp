#include "tools/kvshim/control_command.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/control_rules.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/group_control.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/snapshot.h"
#include "tools/kvshim/snapshot_source.h"

namespace kvshim::cli {
namespace {

using State = Acknowledgement::State;

const segment::RecordSnapshot* same_record(const std::vector<segment::GpuSnapshot>& segments,
                                           const Target& target) {
  for (const segment::GpuSnapshot& gpu : segments) {
    if (gpu.uuid != target.gpu->uuid) continue;
    for (const segment::RecordSnapshot& record : gpu.records) {
      if (record.index == target.record->index && record.claim == target.record->claim) {
        return record.live ? &record : nullptr;
      }
    }
  }
  return nullptr;
}

[[noreturn]] void fail(const Target& target, const std::string& reason) {
  const std::string text = target.label + ": " + printable(reason, 1024) + "; nothing was changed";
  if (same_record(segment::read_all(segment_folder()), target) == nullptr) {
    throw Failure(Exit::kNoProcess, text);
  }
  const bool denied = ::access(target.gpu->path.c_str(), R_OK | W_OK) != 0;
  throw Failure(denied ? Exit::kNoPermission : Exit::kCannotWrite, text);
}

std::string amount_text(std::uint64_t bytes) { return bytes == 0 ? "none" : long_bytes(bytes); }

segment::ControlChange change_for(const Invocation& invocation, const Target& target) {
  segment::ControlChange change;
  const std::uint64_t total = target.record->identity.gpu_total;
  if (invocation.command == "limit") {
    change.limit = read_amount(invocation.value, total);
    check_limit(target, *change.limit);
  } else if (invocation.command == "reserve") {
    change.reserve = read_amount(invocation.value, total);
    check_reserve(target, *change.reserve);
  } else if (invocation.command == "priority") {
    change.priority = invocation.priority;
  } else if (invocation.command == "release") {
    change.release_now = true;
  } else {
    change.paused = invocation.command == "pause";
  }
  return change;
}

std::string what_was_said(const segment::ControlChange& change, const segment::Control& before) {
  if (change.limit) {
    return "limit " + amount_text(*change.limit) + " (was " + amount_text(before.limit) + ")";
  }
  if (change.reserve) {
    return "reserve " + amount_text(*change.reserve) + " (was " + amount_text(before.reserve) + ")";
  }
  if (change.priority) {
    return "priority " + std::to_string(*change.priority) + " (was " +
           std::to_string(before.priority) + ")";
  }
  if (change.paused) return *change.paused ? "paused" : "resumed";
  return "asked to release what is idle";
}

const char* name_of(State state) {
  switch (state) {
    case State::kHeard:
      return "acknowledged";
    case State::kNotYet:
      return "not acknowledged";
    case State::kEnded:
      return "ended";
    case State::kUnasked:
      break;
  }
  return "not waited for";
}

std::string acknowledgement_text(const Acknowledgement& answer) {
  const segment::Figures& figures = answer.record.figures;
  const std::uint64_t held = figures.resident + figures.device_cached + figures.other_bytes;
  std::string text = name_of(answer.state);
  char detail[64] = "";
  switch (answer.state) {
    case State::kHeard:
      std::snprintf(detail, sizeof detail, " after %.0f ms", answer.milliseconds);
      return text + detail + ", has " + long_bytes(held) + " on the GPU now";
    case State::kNotYet:
      std::snprintf(detail, sizeof detail, " within %.1f s", answer.milliseconds / 1000);
      return text + detail + ": recorded, and holds as soon as the process looks (is it stopped?)";
    case State::kEnded:
      return "the process ended meanwhile";
    case State::kUnasked:
      break;
  }
  return "recorded";
}

std::vector<Target> chosen_targets(const Invocation& invocation,
                                   const std::vector<segment::GpuSnapshot>& segments) {
  if (invocation.command != "release" || !invocation.target.empty()) {
    return find_targets(segments, invocation.target, invocation.gpu);
  }
  std::vector<Target> all = all_targets(segments, invocation.gpu);
  const bool one = std::all_of(all.begin(), all.end(), [&](const Target& target) {
    return target.record->identity.pid == all.front().record->identity.pid;
  });
  if (invocation.all || one) return all;
  throw Failure(Exit::kAmbiguous, "there are several processes; say --pid PID or --all");
}

nlohmann::json document_of(const Target& target, const segment::ControlChange& change,
                           const Acknowledgement& answer) {
  const segment::Figures& figures = answer.record.figures;
  nlohmann::json document = {{"pid", target.record->identity.pid},
                             {"gpu", target.gpu->uuid},
                             {"state", name_of(answer.state)},
                             {"milliseconds", answer.milliseconds}};
  if (change.limit) document["limit_bytes"] = json_bytes(*change.limit);
  if (change.reserve) document["reserve_bytes"] = *change.reserve;
  if (change.priority) document["priority"] = *change.priority;
  if (change.paused) document["paused"] = *change.paused;
  if (answer.state == State::kHeard) {
    document["on_gpu_bytes"] = figures.resident + figures.device_cached + figures.other_bytes;
  }
  return document;
}

}  // namespace

Acknowledgement change_control(const Target& target, const segment::ControlChange& change,
                               std::chrono::duration<double> longest) {
  std::uint64_t generation = 0;
  const auto start = std::chrono::steady_clock::now();
  const std::string reason = set_control(*target.gpu, *target.record, change, &generation);
  if (!reason.empty()) fail(target, reason);
  Acknowledgement answer;
  answer.record = *target.record;
  if (longest.count() <= 0) return answer;
  for (;;) {
    const auto segments = segment::read_all(segment_folder());
    const segment::RecordSnapshot* record = same_record(segments, target);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    answer.milliseconds = passed.count() * 1000;
    if (record == nullptr) {
      answer.state = State::kEnded;
      return answer;
    }
    answer.record = *record;
    answer.state =
        record->settings.control_generation >= generation ? State::kHeard : State::kNotYet;
    if (answer.state == State::kHeard || passed >= longest) return answer;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::string describe_change(const Target& target, const segment::ControlChange& change,
                            const Acknowledgement& answer) {
  return target.label + ": " + what_was_said(change, target.record->control) + "; " +
         acknowledgement_text(answer);
}

std::string describe_shortly(const Target& target, const segment::ControlChange& change,
                             const Acknowledgement& answer) {
  std::string text = std::to_string(target.record->identity.pid) + ": " +
                     what_was_said(change, target.record->control) + "; " + name_of(answer.state);
  if (answer.state != State::kHeard) return text;
  return text + " after " + std::to_string(std::lround(answer.milliseconds)) + " ms";
}

Exit run_control(const Invocation& invocation) {
  if (is_group(invocation.target)) return run_group_control(invocation);
  const auto segments = read_segments();
  const std::vector<Target> targets = chosen_targets(invocation, segments);
  std::vector<segment::ControlChange> changes;  // all checked before the first is made
  changes.reserve(targets.size());
  for (const Target& target : targets) changes.push_back(change_for(invocation, target));
  nlohmann::json documents = nlohmann::json::array();
  Exit exit = Exit::kDone;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Acknowledgement answer =
        change_control(targets[i], changes[i], std::chrono::duration<double>(invocation.wait));
    if (answer.state == State::kEnded) exit = Exit::kNoProcess;
    if (answer.state == State::kNotYet && exit == Exit::kDone) exit = Exit::kNotAcknowledged;
    documents.push_back(document_of(targets[i], changes[i], answer));
    if (!invocation.json) {
      std::printf("%s\n", describe_change(targets[i], changes[i], answer).c_str());
    }
  }
  if (invocation.json) print_json({{"changes", documents}});
  return exit;
}

}  // namespace kvshim::cli
