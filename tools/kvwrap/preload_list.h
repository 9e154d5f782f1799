// LD_PRELOAD: a list that the dynamic loader splits at spaces and colons.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvshim::kvwrap {

std::vector<std::string> split_preload_list(std::string_view list);

/// `list` with `library` in front, once: entries that are a libkvshim.so
/// already, this or another build's, are taken out, for two shims in one
/// process would each take the other for the driver.
std::string with_library_first(std::string_view list, const std::string& library);

/// Whether the loader can be told this path at all.
bool fits_in_preload_list(std::string_view path);

}  // namespace kvshim::kvwrap
