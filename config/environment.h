// Options from the environment (KVSHIM_<NAME>) and from kvwrap's --set.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/options.h"

namespace kvshim::config {

using Environment = std::vector<std::pair<std::string, std::string>>;

/// The variable's value; null when it isn't set.
const std::string* find_variable(const Environment& environment, std::string_view name);

/// Whether KVSHIM_DISABLE asks to stay out: any value but empty, 0, false, no
/// and off does.
bool disabled_by(const Environment& environment);

/// Reads every KVSHIM_<NAME> of the environment that is an option. A name that
/// is none but looks like one of them adds a problem.
void read_environment(const Environment& environment, Options* options,
                      std::vector<std::string>* problems);

/// Reads "name=value" texts.
void read_sets(std::span<const std::string> sets, Options* options,
               std::vector<std::string>* problems);

/// KVSHIM_SET as kvwrap writes it: "name=value", one each line.
std::vector<std::string> split_sets(const std::string& text);

}  // namespace kvshim::config
