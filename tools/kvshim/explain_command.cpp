// kvshim explain.
#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <tuple>

#include "segment/contents.h"
#include "tools/kvshim/commands.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/own_configuration.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/start_time.h"
#include "tools/kvshim/status_document.h"
#include "tools/kvshim/target.h"

namespace kvshim::cli {
namespace {

/// The kernel's name as C++ writes it, without parameters; mangled when it isn't C++.
std::string readable_name(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  std::string name = status == 0 && text != nullptr ? text.get() : mangled;
  constexpr std::size_t kLongest = 90;
  if (name.size() > kLongest) name = name.substr(0, kLongest - 3) + "...";
  return name;
}

/// Where the status file may be, best guess first.
std::vector<std::string> places(const std::string& target, std::int64_t* pid) {
  std::vector<std::string> paths;
  const auto [end, error] = std::from_chars(target.data(), target.data() + target.size(), *pid);
  const bool is_number = error == std::errc() && end == target.data() + target.size();
  try {
    const auto segments = read_segments();
    for (const Target& found : find_targets(segments, target, {})) {
      *pid = found.record->identity.pid;
      const std::string path = found.record->identity.status_file.str();
      if (!path.empty()) paths.push_back(path);
    }
  } catch (const Failure& failure) {
    if (!is_number) throw;  // a name is only known from the segments
    if (failure.code() == Exit::kNoPermission) throw;
  }
  const std::string file = "/" + std::to_string(*pid) + ".json";
  std::vector<std::pair<std::string, std::string>> environment;
  if (environment_of(*pid, &environment)) {
    const config::Loaded loaded = config::load(facts_of_process(*pid));
    paths.push_back(status_folder(loaded.options, environment) + file);
  }
  paths.push_back(status_folder(own_configuration().options, own_facts().environment) + file);
  return paths;
}

/// Files of ended processes stay, and numbers come again.
bool is_of_another(const StatusDocument& status) {
  const std::uint64_t now = segment::start_time_of(status.pid);
  return status.start_time != 0 && now != 0 && now != status.start_time;
}

StatusDocument find_status(const std::string& target) {
  std::int64_t pid = 0;
  std::string complaints;
  for (const std::string& path : places(target, &pid)) {
    std::string complaint;
    auto status = read_status(path, &complaint);
    if (status) {
      if (!is_of_another(*status)) return *status;
      complaint = path + " is of an earlier process with this number";
    }
    if (complaints.find(complaint) == std::string::npos) {
      complaints += (complaints.empty() ? "" : "; ") + complaint;
    }
  }
  const bool running = process_exists(pid);
  throw Failure(Exit::kNoProcess,
                (running ? "process " + target + " runs, but has no status file (" + complaints +
                               "): it has no pools under kvshim, or status = false; kvshim doctor "
                               "--pid " +
                               target + " tells more"
                         : "there is no process " + target + " and no status file of one (" +
                               complaints + "); kvshim list shows those there are"));
}

/// Unix seconds; 0: unknown. The file doesn't name its boot: one that was written earlier than the
/// process could have started counts from another.
std::int64_t start_of(const StatusDocument& status) {
  const BootClock clock = boot_clock();
  const std::int64_t start = unix_start(clock, clock.boot, status.start_time);
  const double written = static_cast<double>(std::time(nullptr)) - status.age_seconds;
  return static_cast<double>(start) <= written + 1 ? start : 0;
}

void print_pools(const DeviceStatus& device) {
  // Pools of one reason and group are told together: an engine has one a layer.
  std::map<std::tuple<std::string, std::string, std::uint64_t, bool>, std::vector<PoolStatus>>
      kinds;
  for (const PoolStatus& pool : device.pools) {
    kinds[{pool.reason, pool.group, pool.bytes, pool.pinned}].push_back(pool);
  }
  for (const auto& [kind, pools] : kinds) {
    PoolStatus sum;
    for (const PoolStatus& pool : pools) {
      sum.resident += pool.resident;
      sum.parked += pool.parked;
      sum.absent += pool.absent;
    }
    std::string ids = "pool " + std::to_string(pools.front().id);
    if (pools.size() > 1) {
      ids = "pools " + std::to_string(pools.front().id) + " to " + std::to_string(pools.back().id);
    }
    std::printf("  %s: %zu x %s because %s\n", ids.c_str(), pools.size(),
                long_bytes(std::get<2>(kind)).c_str(), std::get<0>(kind).c_str());
    std::printf("    resident %s, parked %s, absent %s; sibling group %s\n",
                long_bytes(sum.resident).c_str(), long_bytes(sum.parked).c_str(),
                long_bytes(sum.absent).c_str(), std::get<1>(kind).c_str());
    if (std::get<3>(kind)) {
      std::printf(
          "    pinned: stays in GPU memory for good (its address escaped, or a graph built by "
          "hand writes it; the log says which)\n");
    }
  }
}

void print_device(const DeviceStatus& device) {
  std::printf("\nGPU %lld: %zu pools: resident %s, parked %s, absent %s\n",
              static_cast<long long>(device.device), device.pools.size(),
              long_bytes(device.resident).c_str(), long_bytes(device.parked).c_str(),
              long_bytes(device.absent).c_str());
  print_pools(device);
  const auto count = [](std::uint64_t number) { return static_cast<unsigned long long>(number); };
  std::printf("  faults: %llu (p50 %s, p99 %s, longest %s), %llu into host memory, %llu failed\n",
              count(device.faults), short_microseconds(device.fault_p50_us).c_str(),
              short_microseconds(device.fault_p99_us).c_str(),
              short_microseconds(device.fault_max_us).c_str(), count(device.faults_in_host_memory),
              count(device.failed_faults));
  std::printf("  releases: %llu: %s were zero, %s parked, %s dropped; brought back %s\n",
              count(device.releases), long_bytes(device.released_zero).c_str(),
              long_bytes(device.parked_total).c_str(), long_bytes(device.dropped).c_str(),
              long_bytes(device.promoted).c_str());
  std::printf("  fills left out: %llu, %s; host memory %s of at most %s\n",
              count(device.dropped_fills), long_bytes(device.dropped_fill_bytes).c_str(),
              long_bytes(device.host_bytes).c_str(), long_bytes(device.host_budget).c_str());
}

void print_kernels(const StatusDocument& status) {
  std::printf("\nkernels that named pools:%s\n", status.kernels.empty() ? " none so far" : "");
  for (const KernelStatus& kernel : status.kernels) {
    std::string treated;
    for (const std::string& one : kernel.treated_as) treated += (treated.empty() ? "" : ", ") + one;
    std::printf("  %s\n    %s: %s\n", readable_name(kernel.name).c_str(),
                treated.empty() ? kernel.role.c_str() : treated.c_str(),
                kernel.reason.empty() ? "no reason known" : kernel.reason.c_str());
    if (kernel.unknown_launches == 0) continue;
    std::printf(
        "    %llu launches made %s present; words %s; a profile entry would narrow that "
        "(docs/profiles.md)\n",
        static_cast<unsigned long long>(kernel.unknown_launches),
        long_bytes(kernel.unknown_bytes).c_str(), kernel.unknown_words.c_str());
  }
}

nlohmann::json document_of(const StatusDocument& status, bool running, std::int64_t started) {
  nlohmann::json devices = nlohmann::json::array();
  for (const DeviceStatus& device : status.devices) {
    nlohmann::json pools = nlohmann::json::array();
    for (const PoolStatus& pool : device.pools) {
      pools.push_back({{"id", pool.id},
                       {"bytes", pool.bytes},
                       {"resident_bytes", pool.resident},
                       {"parked_bytes", pool.parked},
                       {"absent_bytes", pool.absent},
                       {"pinned", pool.pinned},
                       {"group", pool.group},
                       {"reason", pool.reason}});
    }
    devices.push_back({{"device", device.device},
                       {"pools", pools},
                       {"faults", device.faults},
                       {"fault_p50_us", device.fault_p50_us},
                       {"fault_p99_us", device.fault_p99_us},
                       {"failed_faults", device.failed_faults},
                       {"releases", device.releases},
                       {"released_zero_bytes", device.released_zero},
                       {"parked_bytes_total", device.parked_total},
                       {"dropped_bytes", device.dropped},
                       {"restored_bytes", device.promoted},
                       {"dropped_fills", device.dropped_fills},
                       {"host_bytes", device.host_bytes},
                       {"host_budget", device.host_budget}});
  }
  nlohmann::json kernels = nlohmann::json::array();
  for (const KernelStatus& kernel : status.kernels) {
    kernels.push_back({{"name", kernel.name},
                       {"role", kernel.role},
                       {"reason", kernel.reason},
                       {"treated_as", kernel.treated_as},
                       {"unknown_launches", kernel.unknown_launches},
                       {"unknown_bytes", kernel.unknown_bytes},
                       {"unknown_words", kernel.unknown_words}});
  }
  return {
      {"pid", status.pid},         {"running", running},      {"started_at", json_time(started)},
      {"version", status.version}, {"config", status.config}, {"age_seconds", status.age_seconds},
      {"devices", devices},        {"kernels", kernels},      {"obstacles", status.obstacles}};
}

}  // namespace

Exit run_explain(const Invocation& invocation) {
  const StatusDocument status = find_status(invocation.target);
  const bool running = process_exists(status.pid);
  const std::int64_t started = start_of(status);
  if (invocation.json) {
    print_json(document_of(status, running, started));
    return Exit::kDone;
  }
  const std::string start = local_text(started);
  std::printf("process %lld: %s%s%s, kvshim %s, configuration from %s\n",
              static_cast<long long>(status.pid),
              running ? "running" : "ended (these are its last words)",
              start.empty() ? "" : ", started ", start.c_str(), status.version.c_str(),
              status.config.c_str());
  for (const std::string& obstacle : status.obstacles)
    std::printf("  obstacle: %s\n", obstacle.c_str());
  for (const DeviceStatus& device : status.devices) print_device(device);
  print_kernels(status);
  return Exit::kDone;
}

}  // namespace kvshim::cli
