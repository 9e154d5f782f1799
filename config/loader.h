// Finds and reads the configuration of this process.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "config/options.h"

namespace kvshim::config {

/// What [[process]] sections are matched against.
struct ProcessFacts {
  std::vector<std::string> executables;    // own and ancestors'
  std::vector<std::string> command_lines;  // joined by spaces: own, ancestors', kvwrap's
  std::vector<std::pair<std::string, std::string>> environment;
};

struct Loaded {
  Options options;
  bool disabled_by_environment = false;  // KVSHIM_DISABLE
  std::string source;                    // path of the file, or "defaults"
  std::vector<std::string> problems;     // one clear line each, "file:line:column: ..."
};

/// Reads everything in order: defaults, file, matching [[process]] sections,
/// environment, --set (KVSHIM_SET, newline separated, passed by kvwrap). Never
/// throws; a bad value leaves the option's default and adds a problem.
Loaded load(const ProcessFacts& facts) noexcept;

/// The same for an explicit file text (tests, `kvwrap --config` checks).
Loaded load_text(const std::string& toml, const std::string& file_name, const ProcessFacts& facts,
                 std::span<const std::string> sets) noexcept;

/// The sample configuration file and the reference page, from the table.
std::string sample_file();
std::string reference_page();

}  // namespace kvshim::config
