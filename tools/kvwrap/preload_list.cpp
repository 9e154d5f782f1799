#include "tools/kvwrap/preload_list.h"

namespace kvshim::kvwrap {
namespace {

constexpr std::string_view kSeparators = " :";
constexpr std::string_view kLibraryName = "libkvshim.so";

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace

std::vector<std::string> split_preload_list(std::string_view list) {
  std::vector<std::string> entries;
  while (!list.empty()) {
    const std::size_t end = list.find_first_of(kSeparators);
    if (end != 0) entries.emplace_back(list.substr(0, end));
    list.remove_prefix(end == std::string_view::npos ? list.size() : end + 1);
  }
  return entries;
}

std::string with_library_first(std::string_view list, const std::string& library) {
  std::string result = library;
  for (const std::string& entry : split_preload_list(list)) {
    if (entry == library || base_name(entry) == kLibraryName) continue;
    result += ":" + entry;
  }
  return result;
}

bool fits_in_preload_list(std::string_view path) {
  return !path.empty() && path.find_first_of(kSeparators) == std::string_view::npos;
}

}  // namespace kvshim::kvwrap
