// Facts about the process that change while it runs.
#pragma once

#include <string>
#include <vector>

namespace kvshim::heuristics {

/// Paths of the shared objects loaded now. Takes the loader's lock.
std::vector<std::string> loaded_objects();

/// Splits KVSHIM_COMMAND as kvwrap writes it (arguments apart by 0x1f).
std::vector<std::string> split_wrapped_command(const std::string& text);

}  // namespace kvshim::heuristics
