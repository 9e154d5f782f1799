#include "tools/kvshim/top_steering.h"

#include "tools/kvshim/control_command.h"
#include "tools/kvshim/control_rules.h"

namespace kvshim::cli {
namespace {

constexpr std::chrono::milliseconds kLongest{500};

std::string steer_process(const TopSession& session, TopSession::Request request) {
  const ProcessFigures* process = session.selected_process();
  if (process == nullptr) return "the process has ended";
  const auto segments = read_segments();
  const Target target =
      find_targets(segments, std::to_string(process->pid), session.selected_gpu()).front();
  segment::ControlChange change;
  if (request == TopSession::Request::kLimit) {
    change.limit = read_amount(session.typed(), target.record->identity.gpu_total);
    check_limit(target, *change.limit);
  } else if (request == TopSession::Request::kPause) {
    change.paused = target.record->control.paused == 0;
  } else {
    change.release_now = true;
  }
  const Acknowledgement answer = change_control(target, change, kLongest);
  return describe_shortly(target, change, answer);
}

}  // namespace

std::string steer(const TopSession& session, TopSession::Request request) {
  try {
    return steer_process(session, request);
  } catch (const Failure& failure) {
    return failure.what();
  }
}

}  // namespace kvshim::cli
