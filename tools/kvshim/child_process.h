// Running a program for its output, with a deadline.
#pragma once

#include <string>
#include <vector>

namespace kvshim::cli {

struct ChildResult {
  bool timed_out = false;  // it was killed
  int exit_code = -1;      // -1: ended by a signal, or not started
  int signal = 0;
  std::string output;   // standard output, at most 1 MiB
  std::string failure;  // why it could not be started; empty otherwise
};

/// Runs `arguments[0]` with the environment but without the variables `without`.
/// Kills it after `seconds`. Standard input and error are /dev/null.
ChildResult run_child(const std::vector<std::string>& arguments,
                      const std::vector<std::string>& without, double seconds);

}  // namespace kvshim::cli
