#include "preload/host_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace kvshim::preload {
namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

std::uint64_t available() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  std::uint64_t kibibytes = 0;
  while (file >> name >> kibibytes) {
    if (name == "MemAvailable:") return kibibytes << 10;
    std::getline(file, unit);
  }
  return 0;
}

// "max" (v2) and absurdly large numbers (v1) mean no limit.
std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : kNoLimit;
}

std::uint64_t left_by(const std::string& folder, const char* limit_name, const char* used_name) {
  const std::uint64_t limit = read_number(folder + limit_name);
  const std::uint64_t used = read_number(folder + used_name);
  if (limit == kNoLimit || used == kNoLimit) return kNoLimit;
  return limit > used ? limit - used : 0;
}

std::uint64_t left_by_control_group() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::uint64_t left = kNoLimit;
  while (std::getline(file, line)) {
    const auto second = line.find(':', line.find(':') + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(line.find(':') + 1, second - line.find(':') - 1);
    std::string path = line.substr(second + 1);
    // Every ancestor's limit holds; inside a container the own group is often
    // mounted at the root, which the last round (empty path) covers.
    for (;;) {
      if (controllers.empty()) {
        left = std::min(left, left_by("/sys/fs/cgroup" + path, "/memory.max", "/memory.current"));
      } else if (controllers.find("memory") != std::string::npos) {
        left = std::min(left, left_by("/sys/fs/cgroup/memory" + path, "/memory.limit_in_bytes",
                                      "/memory.usage_in_bytes"));
      }
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return left;
}

}  // namespace

std::uint64_t automatic_host_budget() noexcept {
  try {
    return std::min(available() / 4, left_by_control_group() / 2);
  } catch (...) {
    return 0;
  }
}

}  // namespace kvshim::preload
