// limit, reserve, priority, release, pause and resume.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "tools/kvshim/outcome.h"
#include "tools/kvshim/target.h"

namespace kvshim::cli {

/// What became of one record's change.
struct Acknowledgement {
  enum class State {
    kHeard,    // the process goes by the new control
    kNotYet,   // it did not say so in time; the control stays recorded
    kEnded,    // the process ended meanwhile
    kUnasked,  // --wait 0
  } state = State::kUnasked;
  double milliseconds = 0;
  segment::RecordSnapshot record;  // as last read
};

/// Changes the record's control and waits at most `longest` for the process to
/// say that it goes by it. Throws Failure when it could not be changed.
Acknowledgement change_control(const Target& target, const segment::ControlChange& change,
                               std::chrono::duration<double> longest);

/// "1619 (vllm) on GPU-1234abcd: limit 20.0 GiB (was none); acknowledged after 4 ms, ..."
std::string describe_change(const Target& target, const segment::ControlChange& change,
                            const Acknowledgement& answer);

/// The same in few words, for one line of 80 columns: "1619: limit 20.0 GiB (was
/// none); acknowledged after 4 ms".
std::string describe_shortly(const Target& target, const segment::ControlChange& change,
                             const Acknowledgement& answer);

}  // namespace kvshim::cli
