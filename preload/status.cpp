#include "preload/status.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "observe/log.h"
#include "preload/allocation.h"
#include "preload/freeing.h"
#include "preload/kernel_decisions.h"
#include "preload/membership.h"
#include "preload/neighbours.h"
#include "preload/runtime.h"
#include "preload/status_file.h"
#include "preload/unknown_kernels.h"
#include "segment/contents.h"
#include "vmm/service_thread.h"

namespace kvshim::preload {
namespace {

std::atomic<bool> started{false};
std::atomic<bool> summarized{false};
StatusFile* status_file = nullptr;  // leaked; its path empty: no file

std::string json_text(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string field(const char* name, std::uint64_t value) {
  return std::string("\"") + name + "\": " + std::to_string(value);
}

std::string device_json(Runtime& runtime, DeviceRuntime& device) {
  const vmm::Statistics& s = device.memory.statistics();
  const vmm::PhysicalBytes physical = device.memory.physical();
  std::string out = "{" + field("device", static_cast<std::uint64_t>(device.memory.device()));
  out += ", \"pools\": [";
  std::uint64_t resident = 0, parked = 0, absent = 0;
  bool first = true;
  for (const vmm::PoolFigures& pool : device.memory.pools()) {
    resident += pool.resident;
    parked += pool.parked;
    absent += pool.absent;
    out += std::string(first ? "" : ", ") + "{" + field("id", pool.id) + ", " +
           field("bytes", pool.bytes) + ", " + field("resident", pool.resident) + ", " +
           field("parked", pool.parked) + ", " + field("absent", pool.absent) +
           ", \"pinned\": " + (pool.pinned ? "true" : "false") +
           ", \"group\": " + json_text(pool.group) +
           ", \"reason\": " + json_text(runtime.reason_of(pool.id)) + "}";
    first = false;
  }
  out += "], " + field("resident", resident) + ", " + field("parked", parked) + ", " +
         field("absent", absent) + ", " + field("zero_handles", physical.zero) + ", " +
         field("host_bytes", physical.host) + ", " +
         field("host_budget", device.memory.host_budget());
  out += ", \"faults\": {" + field("count", s.faults.count()) + ", " +
         field("total_us", s.faults.total()) + ", " +
         field("swaps_of_moves_us", s.swaps_of_moves_us.load()) + ", " +
         field("guard_copies_us", s.guard_copies_us.load()) + ", " +
         field("p50_us", s.faults.quantile(0.5)) + ", " + field("p99_us", s.faults.quantile(0.99)) +
         ", " + field("max_us", s.faults.max()) + ", " +
         field("granules", s.granules_made_present.load()) + ", " +
         field("granules_ahead", s.granules_ahead.load()) + ", " +
         field("in_host_memory", s.faults_in_host_memory.load()) + ", " +
         field("failed", s.failed_faults.load()) + "}";
  out += ", " + field("lost_streams", device.streams.lost()) + ", " +
         field("releases", s.releases.load()) + ", " +
         field("released_zero_bytes", s.released_zero_bytes.load()) + ", " +
         field("parked_bytes_total", s.parked_bytes_total.load()) + ", " +
         field("dropped_bytes", s.dropped_bytes.load()) + ", " +
         field("cold_bytes_total", s.cold_bytes.load()) + ", " +
         field("cold_parked", device.memory.parked_bytes().cold) + ", " +
         field("asked_again", s.asked_again.load()) + ", " +
         field("marked_by_readers", s.marked_by_readers.load()) + ", " +
         field("readers_answered", device.memory.read_marks().answers()) + ", " +
         field("promotions", s.promotions.load()) + ", " +
         field("promoted_bytes", s.promoted_bytes.load()) + ", " +
         field("prefetched_bytes", s.prefetched_bytes.load()) + ", " +
         field("moved_away_bytes", s.moved_away_bytes.load()) + ", " +
         field("dropped_fills", s.dropped_fills.load()) + ", " +
         field("dropped_fill_bytes", s.dropped_fill_bytes.load());
  const vmm::Limits& limits = device.memory.limits();
  out +=
      ", " + field("limit", limits.limit.load()) + ", " + field("reserve", limits.reserve.load()) +
      ", " + field("other_bytes", limits.other_bytes.load()) + ", " +
      field("given_bytes", s.given_bytes.load()) + ", " + field("got_bytes", s.got_bytes.load()) +
      ", " + field("needs_answered", s.needs_answered.load()) + ", " +
      field("needs_unanswered", s.needs_unanswered.load()) + ", " +
      field("limit_bytes", s.limit_bytes.load()) + "}";
  return out;
}

std::string status_json(Runtime& runtime) {
  std::string out = "{\"version\": \"" KVSHIM_VERSION "\", " +
                    field("pid", static_cast<std::uint64_t>(getpid())) + ", " +
                    field("start_time", segment::start_time_of(getpid())) +
                    ", \"config\": " + json_text(runtime.configuration().source) + ", " +
                    field("managed_bytes", managed_bytes()) + ", \"devices\": [";
  bool first = true;
  for (DeviceRuntime* device : runtime.devices_ever()) {
    out += (first ? "" : ", ") + device_json(runtime, *device);
    first = false;
  }
  out += "], \"unknown_kernels\": [";
  first = true;
  for (const auto& [name, kernel] : unknown_kernels()) {
    out += std::string(first ? "" : ", ") + "{\"name\": " + json_text(name) + ", " +
           field("launches", kernel.launches) + ", " + field("bytes", kernel.bytes) +
           ", \"words\": " + json_text(kernel.words) + "}";
    first = false;
  }
  out += "], \"kernels\": [";
  first = true;
  for (const KernelDecision& kernel : kernel_decisions()) {
    out += std::string(first ? "" : ", ") + "{\"name\": " + json_text(kernel.name) +
           ", \"role\": " + json_text(kernel.role) + ", \"reason\": " + json_text(kernel.reason) +
           ", \"treated_as\": [";
    for (std::size_t i = 0; i < kernel.treated_as.size(); ++i) {
      out += (i == 0 ? "" : ", ") + json_text(kernel.treated_as[i]);
    }
    out += "]}";
    first = false;
  }
  out += "], \"obstacles\": [";
  first = true;
  // Leaked: the summary at exit comes after the destructors of such statics.
  static const auto& obstacles = *new std::vector<std::string>(runtime.recognizer().obstacles());
  for (const std::string& obstacle : obstacles) {
    out += (first ? "" : ", ") + json_text(obstacle);
    first = false;
  }
  return out + "]}\n";
}

// $XDG_RUNTIME_DIR/kvshim, else /tmp/kvshim-<uid>; 0700 and ours, or not at all:
// in /tmp somebody else may have made it.
std::string status_folder(const std::string& chosen) {
  std::string folder = chosen;
  if (folder.empty()) {
    const char* runtime_dir = std::getenv("XDG_RUNTIME_DIR");
    folder = runtime_dir != nullptr && *runtime_dir == '/'
                 ? std::string(runtime_dir) + "/kvshim"
                 : "/tmp/kvshim-" + std::to_string(getuid());
  }
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    log::warning("no status file: " + folder + " can't be made: " + std::strerror(errno));
    return {};
  }
  struct stat info {};
  if (lstat(folder.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != getuid() ||
      (info.st_mode & 022) != 0) {
    log::warning("no status file: " + folder +
                 " is not a folder that only this user can write (option status_dir)");
    return {};
  }
  return folder;
}

config::LogLevel log_level_of(vmm::EventLevel level) {
  switch (level) {
    case vmm::EventLevel::kDebug:
      return config::LogLevel::kDebug;
    case vmm::EventLevel::kInfo:
      return config::LogLevel::kInfo;
    case vmm::EventLevel::kWarning:
      return config::LogLevel::kWarning;
    case vmm::EventLevel::kError:
      break;
  }
  return config::LogLevel::kError;
}

void tell_events(Runtime& runtime) {
  for (DeviceRuntime* device : runtime.devices_ever()) {
    for (const vmm::Event& event : device->memory.events().drain()) {
      log::write(log_level_of(event.level), event.text, event.when);
    }
  }
}

void tell_complaint() {
  const std::string complaint = status_file->take_complaint();
  if (!complaint.empty()) log::warning(complaint + " (option status_dir)");
}

void run() {
  pthread_setname_np(pthread_self(), "kvshim-status");
  Runtime* runtime = Runtime::get();
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  runtime->driver().cuThreadExchangeStreamCaptureMode(&mode);
  auto written = std::chrono::steady_clock::time_point();
  std::string last;
  // The first pool makes this process a member among its neighbours; until then it can't
  // ask them for anything. Sooner at first: pools may be written as soon as they are there.
  constexpr std::chrono::milliseconds kEvery{100};
  std::chrono::milliseconds pause{1};
  for (;; pause = std::min(pause * 2, kEvery)) {
    std::this_thread::sleep_for(pause);
    tell_events(*runtime);
    finish_deferred_frees();
    update_memberships(*runtime, status_file->path());
    update_neighbours(*runtime);
    const auto now = std::chrono::steady_clock::now();
    if (status_file->path().empty() || now - written < std::chrono::seconds(1)) continue;
    std::string text = status_json(*runtime);
    if (text == last) continue;
    status_file->write(text);
    tell_complaint();
    last = std::move(text);
    written = now;
  }
}

}  // namespace

void start_status() noexcept {
  if (started.exchange(true)) return;
  try {
    const config::Options& options = Runtime::get()->options();
    const std::string folder = options.status ? status_folder(options.status_dir) : std::string();
    status_file =
        new StatusFile(folder.empty() ? "" : folder + "/" + std::to_string(getpid()) + ".json");
    const vmm::HostSignalsBlocked blocked;
    std::thread(run).detach();
  } catch (...) {
    log::warning("no status: its thread could not be started");
  }
}

void summarize_at_exit() noexcept {
  Runtime* runtime = Runtime::get();
  if (runtime == nullptr || summarized.exchange(true)) return;
  end_neighbours();
  end_memberships();
  try {
    tell_events(*runtime);
    const std::string warning =
        runtime->recognizer().left_alone_warning(runtime->pools_made(), true);
    if (!warning.empty()) log::warning(warning);
    for (DeviceRuntime* device : runtime->devices_ever()) {
      const vmm::Statistics& s = device->memory.statistics();
      log::info("summary: " + std::to_string(runtime->pools_made()) + " pools, " +
                std::to_string(s.faults.count()) + " faults (p50 " +
                std::to_string(s.faults.quantile(0.5)) + " us, p99 " +
                std::to_string(s.faults.quantile(0.99)) + " us, max " +
                std::to_string(s.faults.max()) + " us, in all " +
                std::to_string(s.faults.total() / 1000) + " ms), " +
                std::to_string(s.releases.load()) + " releases (" +
                std::to_string(s.released_zero_bytes.load() >> 20) + " MiB zero, " +
                std::to_string(s.parked_bytes_total.load() >> 20) + " MiB parked, " +
                std::to_string(s.dropped_bytes.load() >> 20) + " MiB dropped), " +
                std::to_string(s.promoted_bytes.load() >> 20) + " MiB brought back, " +
                std::to_string(s.dropped_fills.load()) + " fills dropped");
    }
    if (status_file != nullptr && !status_file->path().empty()) {
      status_file->write_last(status_json(*runtime));
      tell_complaint();
    }
  } catch (...) {
  }
}

void abandon_status_after_fork() noexcept {
  abandon_neighbours_after_fork();
  abandon_memberships_after_fork();
  started.store(false);
  summarized.store(false);
  status_file = nullptr;
}

}  // namespace kvshim::preload
