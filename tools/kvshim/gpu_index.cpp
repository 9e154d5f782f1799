#include "tools/kvshim/gpu_index.h"

#include <algorithm>
#include <fstream>
#include <string_view>
#include <system_error>
#include <vector>

namespace kvshim::cli {
namespace {

constexpr std::string_view kUuid = "GPU UUID:";

std::string uuid_in(const std::filesystem::path& file) {
  std::ifstream text(file);
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with(kUuid)) continue;
    const std::size_t begin = line.find_first_not_of(" \t", kUuid.size());
    if (begin == std::string::npos) return {};
    return line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
  }
  return {};
}

}  // namespace

std::map<std::string, int> gpu_indices(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> places;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    places.push_back(at->path());
  }
  std::sort(places.begin(), places.end());
  std::map<std::string, int> indices;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::string uuid = uuid_in(places[i] / "information");
    if (!uuid.empty()) indices.emplace(uuid, static_cast<int>(i));
  }
  return indices;
}

}  // namespace kvshim::cli
