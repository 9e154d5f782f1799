// kvshim doctor: the library, a running process, an engine's command line.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tools/kvshim/finding.h"

namespace kvshim::cli {

using Environment = std::vector<std::pair<std::string, std::string>>;

/// That the library is found and can be loaded here.
Findings check_library();

/// What LD_PRELOAD (and /etc/ld.so.preload, given as text) holds beside kvshim's
/// library. Pure.
Findings judge_preloads(const std::string& ld_preload, const std::string& system_preloads);

/// What a command line and its environment mean for kvshim by the engines'
/// profiles: obstacles with their remedies. `program` is the resolved executable.
Findings check_command(const std::vector<std::string>& command, const std::string& program,
                       const Environment& environment);

/// A running process: whether the library is loaded and active there, and why not.
Findings check_process(std::int64_t pid);

}  // namespace kvshim::cli
