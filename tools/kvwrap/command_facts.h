// What kvwrap tells the shim about the command: engines rename their processes
// and spawn children, so their command lines don't say later what was started.
#pragma once

#include <string>
#include <vector>

namespace kvshim::kvwrap {

/// KVSHIM_COMMAND: the arguments, each but the last followed by the unit
/// separator (0x1f). Cut after 32 KiB, for the kernel limits a variable's size.
std::string encode_command(const std::vector<std::string>& command);

/// The arguments joined by spaces, as [[process]] sections see them.
std::string joined_command(const std::vector<std::string>& command);

/// The file that exec would run for `name`, by PATH; `name` itself when there
/// is none.
std::string resolved_executable(const std::string& name);

/// `text` as one word of a POSIX shell.
std::string shell_quoted(const std::string& text);

}  // namespace kvshim::kvwrap
