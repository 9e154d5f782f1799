#include "tools/kvshim/machine_checks.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "segment/layout.h"
#include "segment/reader.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kOldestDriver = 12040;
constexpr int kOldestGpu = 75;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Finding check_status_folder(const std::string& folder) {
  struct stat info {};
  if (::lstat(folder.c_str(), &info) != 0) {
    if (errno == ENOENT) {
      const std::string parent = fs::path(folder).parent_path().string();
      if (::access(parent.c_str(), W_OK | X_OK) == 0) {
        return {Level::kOk, "runtime folder", folder + " will be made when it is needed", ""};
      }
      return {Level::kWarn, "runtime folder", folder + " is missing and can't be made in " + parent,
              "no status files are written; set status_dir to a folder of yours"};
    }
    return {Level::kWarn, "runtime folder", folder + ": " + std::strerror(errno),
            "set status_dir to a folder of yours"};
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 022) != 0) {
    return {Level::kWarn, "runtime folder",
            folder + " is not a folder that only this user can write, so nothing is written there",
            "remove it, or set status_dir to another folder"};
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return {Level::kWarn, "runtime folder", folder + ": " + std::strerror(errno),
            "set status_dir to a folder that can be written"};
  }
  return {Level::kOk, "runtime folder", folder, ""};
}

Finding check_segment_folder(const std::string& folder) {
  struct statvfs room {};
  if (::access(folder.c_str(), W_OK | X_OK) != 0 || ::statvfs(folder.c_str(), &room) != 0) {
    return {Level::kFail, "shared memory", folder + ": " + std::strerror(errno),
            "processes can't coordinate nor be steered; mount it, or set segment_dir"};
  }
  const std::uint64_t free = std::uint64_t{room.f_bavail} * room.f_frsize;
  if (free < sizeof(segment::Segment)) {
    return {Level::kFail, "shared memory",
            folder + " has " + long_bytes(free) + " free, a segment needs " +
                long_bytes(sizeof(segment::Segment)),
            "remove files from it, or make it larger (docker run --shm-size)"};
  }
  return {Level::kOk, "shared memory", folder + ", " + long_bytes(free) + " free", ""};
}

std::uint64_t kib_of(const std::string& meminfo, const std::string& name) {
  const std::size_t at = meminfo.find(name + ":");
  if (at == std::string::npos) return 0;
  return std::strtoull(meminfo.c_str() + at + name.size() + 1, nullptr, 10) << 10;
}

}  // namespace

Findings judge_driver(const DriverFacts& facts) {
  Findings findings;
  if (!facts.failure.empty()) {
    findings.push_back({Level::kFail, "driver",
                        (facts.path.empty() ? std::string() : facts.path + ": ") + facts.failure,
                        "install NVIDIA's driver, or give this container the GPU (nvidia-smi must "
                        "work here)"});
    return findings;
  }
  const std::string what =
      "CUDA " + version_text(facts.version) + (facts.path.empty() ? "" : ", " + facts.path);
  if (facts.version < kOldestDriver || !facts.param_info) {
    findings.push_back({Level::kWarn, "driver", what + ": older than CUDA 12.4",
                        "nothing is saved while an engine works: kernels' parameters can't be "
                        "read; update the driver to 550 or newer"});
  } else {
    findings.push_back({Level::kOk, "driver", what, ""});
  }
  if (facts.gpus.empty()) {
    findings.push_back({Level::kFail, "GPU", "the driver sees none",
                        "look at CUDA_VISIBLE_DEVICES, and whether this container was given one"});
  }
  for (const DriverGpu& gpu : facts.gpus) {
    const std::string name = gpu.name + " (" + gpu.uuid + "), " + long_bytes(gpu.total);
    if (!gpu.virtual_memory) {
      findings.push_back({Level::kFail, "GPU", name + ": no virtual memory management",
                          "its allocations are left alone; nothing can be done on this GPU"});
    } else if (gpu.compute_capability < kOldestGpu) {
      findings.push_back({Level::kFail, "GPU",
                          name + ": compute capability " +
                              std::to_string(gpu.compute_capability / 10) + "." +
                              std::to_string(gpu.compute_capability % 10) + ", 7.5 is needed",
                          "its allocations are left alone; use a GPU of the Turing generation or "
                          "newer"});
    } else {
      findings.push_back({Level::kOk, "GPU", name + ", virtual memory management", ""});
    }
    if (gpu.mps) {
      findings.push_back(
          {Level::kWarn, "MPS", gpu.name + " is shared through MPS: one client's fault stops all",
           "engines under kvshim stay elastic with more care; to keep them out of it set under_mps "
           "= false, or start them outside of MPS (docs/sharing.md)"});
    }
  }
  return findings;
}

Findings check_devices() {
  Findings findings;
  const std::string version = text_of("/proc/driver/nvidia/version");
  if (version.empty()) {
    findings.push_back({Level::kWarn, "kernel module", "NVIDIA's is not loaded",
                        "right for the simulator; for a GPU load it (modprobe nvidia)"});
  } else {
    const std::string first = version.substr(0, version.find('\n'));
    findings.push_back({Level::kOk, "kernel module", printable(first), ""});
    for (const char* file : {"/dev/nvidiactl", "/dev/nvidia-uvm"}) {
      if (::access(file, R_OK | W_OK) == 0) continue;
      findings.push_back({Level::kFail, "device files",
                          std::string(file) + ": " + std::strerror(errno),
                          "this user can't reach the GPU; look at its permissions and the "
                          "container's devices"});
    }
  }
  const char* pipe = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  const std::string folder = pipe != nullptr && *pipe != '\0' ? pipe : "/tmp/nvidia-mps";
  if (::access((folder + "/control").c_str(), F_OK) == 0) {
    findings.push_back(
        {Level::kWarn, "MPS", "its daemon runs (" + folder + ")",
         "a write that kvshim missed would take every client down with it; run "
         "engines under kvshim without MPS, or with profiles for all their kernels"});
    if (const char* limit = std::getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")) {
      findings.push_back({Level::kOk, "MPS",
                          "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT is " + printable(limit) +
                              ": an engine with this environment has it as its limit",
                          ""});
    }
  }
  return findings;
}

Findings check_folders(const std::string& status_folder, const std::string& segment_folder) {
  return {check_status_folder(status_folder),
          check_segment_folder(segment::folder_or_default(segment_folder))};
}

Findings check_segments(const std::string& segment_folder) {
  Findings findings;
  std::string error;
  for (const segment::GpuSnapshot& gpu : segment::read_all(segment_folder, ::geteuid(), &error)) {
    if (!gpu.error.empty()) {
      findings.push_back({Level::kWarn, "segment", printable(gpu.path + ": " + gpu.error, 1024),
                          "engines set it aside when they start; to be rid of it now, end those "
                          "engines and remove the file"});
      continue;
    }
    std::size_t live = 0;
    for (const segment::RecordSnapshot& record : gpu.records) live += record.live ? 1 : 0;
    findings.push_back(
        {Level::kOk, "segment",
         gpu.path + ", " + std::to_string(live) + (live == 1 ? " process" : " processes"), ""});
  }
  return findings;
}

Findings check_host_memory() {
  const std::string meminfo = text_of("/proc/meminfo");
  const std::uint64_t available = kib_of(meminfo, "MemAvailable");
  Finding finding{Level::kOk, "host memory",
                  long_bytes(available) + " available; parked contents get at most " +
                      long_bytes(available / 4) + " by default",
                  ""};
  if (available < (std::uint64_t{4} << 30)) {
    finding.level = Level::kWarn;
    finding.remedy =
        "with so little, idle contents stay in GPU memory; add memory, or set contents = "
        "\"disposable\" where the engine doesn't read what idle pools held";
  }
  return {finding};
}

Findings judge_configuration(const std::string& source, bool disabled,
                             const std::vector<std::string>& problems) {
  Findings findings;
  for (const std::string& problem : problems) {
    findings.push_back({Level::kFail, "configuration", printable(problem, 1024),
                        "repair that line; until then the default holds"});
  }
  if (disabled) {
    findings.push_back({Level::kWarn, "configuration",
                        "turned off (enabled = false or KVSHIM_DISABLE)",
                        "remove that to make GPU memory elastic"});
  }
  if (findings.empty()) {
    findings.push_back({Level::kOk, "configuration",
                        source == "defaults" ? "no file: the defaults" : "from " + source, ""});
  }
  return findings;
}

}  // namespace kvshim::cli
