// kvwrap's own command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kvshim::kvwrap {

inline constexpr int kUsageError = 2;

struct Invocation {
  std::string config_file;  // empty: as the library finds it
  std::vector<std::string> sets;
  bool print_environment = false;
  std::vector<std::string> command;
};

/// Reads the command line. Nothing when there is nothing to run (help, version,
/// a mistake); `*exit_code` is then what to exit with, and the text is printed.
std::optional<Invocation> parse_invocation(int count, char** arguments, int* exit_code);

}  // namespace kvshim::kvwrap
