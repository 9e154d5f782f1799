#include "tools/kvwrap/library_location.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "tools/kvwrap/preload_list.h"

namespace kvshim::kvwrap {
namespace {

namespace fs = std::filesystem;

bool is_library(const std::string& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), R_OK) == 0;
}

/// Absolute and without "..", but links stay: they may be how a path without
/// spaces was made.
std::string absolute(const std::string& path) {
  std::error_code error;
  const fs::path result = fs::absolute(path, error);
  return error ? path : result.lexically_normal().string();
}

}  // namespace

std::string own_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : path.string();
}

std::vector<std::string> library_places(const std::string& folder) {
  std::vector<std::string> places;
  for (const char* place : {"/libkvshim.so", "/../lib/libkvshim.so", "/../lib64/libkvshim.so",
                            "/../../preload/libkvshim.so"}) {
    places.push_back(absolute(folder + place));
  }
  return places;
}

std::string find_library(std::string* complaint) {
  std::string library;
  const char* named = std::getenv("KVSHIM_LIBRARY");
  if (named != nullptr && *named != '\0') {
    library = absolute(named);
    if (!is_library(library)) {
      *complaint = "KVSHIM_LIBRARY names " + library + ", where there is no readable file";
      return {};
    }
  } else {
    const std::string folder = fs::path(own_path()).parent_path().string();
    std::string tried;
    for (const std::string& place : library_places(folder)) {
      if (is_library(place)) {
        library = place;
        break;
      }
      tried += (tried.empty() ? "" : ", ") + place;
    }
    if (library.empty()) {
      *complaint = "libkvshim.so not found (" + tried + "); set KVSHIM_LIBRARY to its path";
      return {};
    }
  }
  if (!fits_in_preload_list(library)) {
    *complaint = "LD_PRELOAD can't name a path with a space or a colon: " + library +
                 "; set KVSHIM_LIBRARY to a link without them";
    return {};
  }
  return library;
}

}  // namespace kvshim::kvwrap
