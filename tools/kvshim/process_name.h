// What a process is called in lists.
#pragma once

#include <string>

namespace kvshim::cli {

/// A short name from the executable's name and the command line (arguments joined
/// by spaces): for interpreters the script or module ("vllm" of "python3
/// /usr/bin/vllm serve ..."), else the executable. Printable, without spaces.
std::string display_name(const std::string& executable, const std::string& command_line);

}  // namespace kvshim::cli
