// The configuration as processes read it, for this program and for others.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/loader.h"

namespace kvshim::cli {

/// What the configuration is matched against for this program itself.
config::ProcessFacts own_facts();

/// What --pid says. Throws Failure when that is no process id.
std::int64_t pid_of(const std::string& text);

/// The same as own_facts() for a running process, from /proc: its executable, command line and
/// environment, and those of its ancestors that are preloaded too. Throws Failure
/// (no such process, no permission).
config::ProcessFacts facts_of_process(std::int64_t pid);

/// The configuration of this program, read once: where segments and status files are.
const config::Loaded& own_configuration();

/// The folder of status files by the given options and environment.
std::string status_folder(const config::Options& options,
                          const std::vector<std::pair<std::string, std::string>>& environment);

}  // namespace kvshim::cli
