#include "tools/kvshim/status_document.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "tools/kvshim/process_files.h"
#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kLongestName = 4096;

std::uint64_t number(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

std::string text(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string()
             ? printable(found->get<std::string>(), kLongestName)
             : std::string();
}

/// The array's objects; none when it is missing or something else.
std::vector<json> objects(const json& object, const char* name) {
  std::vector<json> result;
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array()) return result;
  std::copy_if(found->begin(), found->end(), std::back_inserter(result),
               [](const json& one) { return one.is_object(); });
  return result;
}

std::vector<std::string> texts(const json& object, const char* name) {
  std::vector<std::string> result;
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array()) return result;
  for (const json& one : *found) {
    if (one.is_string()) result.push_back(printable(one.get<std::string>(), kLongestName));
  }
  return result;
}

PoolStatus pool_of(const json& object) {
  PoolStatus pool;
  pool.id = number(object, "id");
  pool.bytes = number(object, "bytes");
  pool.resident = number(object, "resident");
  pool.parked = number(object, "parked");
  pool.absent = number(object, "absent");
  pool.pinned = object.contains("pinned") && object["pinned"] == true;
  pool.group = text(object, "group");
  pool.reason = text(object, "reason");
  return pool;
}

DeviceStatus device_of(const json& object) {
  DeviceStatus device;
  device.device = static_cast<std::int64_t>(number(object, "device"));
  for (const json& pool : objects(object, "pools")) device.pools.push_back(pool_of(pool));
  device.resident = number(object, "resident");
  device.parked = number(object, "parked");
  device.absent = number(object, "absent");
  device.zero_handles = number(object, "zero_handles");
  device.host_bytes = number(object, "host_bytes");
  device.host_budget = number(object, "host_budget");
  const auto faults = object.find("faults");
  if (faults != object.end() && faults->is_object()) {
    device.faults = number(*faults, "count");
    device.fault_p50_us = number(*faults, "p50_us");
    device.fault_p99_us = number(*faults, "p99_us");
    device.fault_max_us = number(*faults, "max_us");
    device.faults_in_host_memory = number(*faults, "in_host_memory");
    device.failed_faults = number(*faults, "failed");
  }
  device.releases = number(object, "releases");
  device.released_zero = number(object, "released_zero_bytes");
  device.parked_total = number(object, "parked_bytes_total");
  device.dropped = number(object, "dropped_bytes");
  device.promoted = number(object, "promoted_bytes");
  device.dropped_fills = number(object, "dropped_fills");
  device.dropped_fill_bytes = number(object, "dropped_fill_bytes");
  return device;
}

void add_unknown(const json& object, std::vector<KernelStatus>* kernels) {
  const std::string name = text(object, "name");
  auto found = std::find_if(kernels->begin(), kernels->end(),
                            [&](const KernelStatus& kernel) { return kernel.name == name; });
  if (found == kernels->end()) {
    kernels->push_back({name, "unknown", "", {}, 0, 0, ""});
    found = kernels->end() - 1;
  }
  found->unknown_launches = std::max<std::uint64_t>(number(object, "launches"), 1);
  found->unknown_bytes = number(object, "bytes");
  found->unknown_words = text(object, "words");
}

}  // namespace

std::optional<StatusDocument> parse_status(const std::string& content) {
  const json document = json::parse(content, nullptr, false);
  if (!document.is_object() || !document.contains("devices") || !document["devices"].is_array()) {
    return std::nullopt;
  }
  StatusDocument status;
  status.version = text(document, "version");
  status.config = text(document, "config");
  status.pid = static_cast<std::int64_t>(number(document, "pid"));
  status.start_time = number(document, "start_time");
  // Every version says these: without them it is somebody else's file.
  if (status.version.empty() || status.pid <= 0) return std::nullopt;
  for (const json& device : objects(document, "devices")) {
    status.devices.push_back(device_of(device));
  }
  for (const json& kernel : objects(document, "kernels")) {
    status.kernels.push_back({text(kernel, "name"), text(kernel, "role"), text(kernel, "reason"),
                              texts(kernel, "treated_as"), 0, 0, ""});
  }
  for (const json& kernel : objects(document, "unknown_kernels")) {
    add_unknown(kernel, &status.kernels);
  }
  status.obstacles = texts(document, "obstacles");
  return status;
}

std::optional<StatusDocument> read_status(const std::string& path, std::string* complaint) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    *complaint = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  if (!S_ISREG(info.st_mode) || (info.st_uid != ::geteuid() && ::geteuid() != 0)) {
    *complaint = path + ": not a file of this user";
    return std::nullopt;
  }
  const std::string content = text_of(path);
  if (content.empty() && info.st_size > 0) {
    *complaint = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  auto status = parse_status(content);
  if (!status) {
    *complaint = path + ": not a status file of kvshim";
    return std::nullopt;
  }
  status->age_seconds = std::max(0.0, std::difftime(std::time(nullptr), info.st_mtime));
  return status;
}

}  // namespace kvshim::cli
