// The files that a configuration names, looked at before the command runs.
#pragma once

#include <string>
#include <vector>

#include "config/options.h"

namespace kvshim::kvwrap {

/// One line for each of log_file and profiles that the command could not use. Opens or makes
/// no log: somebody may wait at a pipe for the command's own words. Never waits.
std::vector<std::string> problems_with_files(const config::Options& options);

}  // namespace kvshim::kvwrap
