// The status file that the library writes for a process, read with distrust.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvshim::cli {

struct PoolStatus {
  std::uint64_t id = 0, bytes = 0, resident = 0, parked = 0, absent = 0;
  bool pinned = false;
  std::string group;
  std::string reason;
};

struct DeviceStatus {
  std::int64_t device = 0;
  std::vector<PoolStatus> pools;
  std::uint64_t resident = 0, parked = 0, absent = 0, zero_handles = 0;
  std::uint64_t host_bytes = 0, host_budget = 0;
  std::uint64_t faults = 0, fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;
  std::uint64_t faults_in_host_memory = 0, failed_faults = 0;
  std::uint64_t releases = 0, released_zero = 0, parked_total = 0, dropped = 0, promoted = 0;
  std::uint64_t dropped_fills = 0, dropped_fill_bytes = 0;
};

struct KernelStatus {
  std::string name;  // mangled
  std::string role, reason;
  std::vector<std::string> treated_as;
  std::uint64_t unknown_launches = 0;  // 0: not an unknown kernel
  std::uint64_t unknown_bytes = 0;
  std::string unknown_words;
};

struct StatusDocument {
  std::string version, config;
  std::int64_t pid = 0;
  std::uint64_t start_time = 0;  // of that process (segment::start_time_of()); 0: not told
  double age_seconds = 0;        // of the file
  std::vector<DeviceStatus> devices;
  std::vector<KernelStatus> kernels;
  std::vector<std::string> obstacles;
};

/// Parses a status file's text; nothing when it isn't one: without a version, a process id or
/// a list of devices. Other fields that are missing or of the wrong kind are 0 or empty (another
/// version), texts come out printable.
std::optional<StatusDocument> parse_status(const std::string& text);

/// Reads a file. Nothing, with `*complaint` set, when it can't be read, is not this
/// user's (root reads all), or isn't one.
std::optional<StatusDocument> read_status(const std::string& path, std::string* complaint);

}  // namespace kvshim::cli
