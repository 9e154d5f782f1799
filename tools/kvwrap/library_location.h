// Where libkvshim.so lies, seen from kvwrap.
#pragma once

#include <string>
#include <vector>

namespace kvshim::kvwrap {

/// The places for a kvwrap in `folder`, first to last: beside it, in an install
/// prefix, in a build tree.
std::vector<std::string> library_places(const std::string& folder);

/// The absolute path of the library: KVSHIM_LIBRARY if set, else the first
/// place that holds one. Empty, with `*complaint` set, when there is none or
/// LD_PRELOAD can't name it.
std::string find_library(std::string* complaint);

/// The path of this program, symbolic links resolved; empty when unknown.
std::string own_path();

}  // namespace kvshim::kvwrap
