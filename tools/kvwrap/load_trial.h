// Tries the preload before the command depends on it.
#pragma once

#include <string>

namespace kvshim::kvwrap {

/// The hidden first argument that makes kvwrap report whether the library named
/// by the second is loaded into it.
inline constexpr const char* kLoadedArgument = "--kvshim-is-loaded";

/// Whether `library` is part of this process. For the trial's child.
bool is_loaded(const std::string& library);

/// Runs this program again with the environment as it is (LD_PRELOAD set) and
/// has it say whether `library` got loaded. Empty when it did; else the
/// loader's reason. Takes some milliseconds, at most ten seconds. `self` is
/// this program's path.
std::string try_load(const std::string& self, const std::string& library);

}  // namespace kvshim::kvwrap
