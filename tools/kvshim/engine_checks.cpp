#include "tools/kvshim/engine_checks.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "config/loader.h"
#include "heuristics/profiles.h"
#include "heuristics/recognizer.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/machine_checks.h"
#include "tools/kvshim/own_configuration.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/snapshot.h"
#include "tools/kvshim/status_document.h"
#include "tools/kvwrap/library_location.h"
#include "tools/kvwrap/load_trial.h"
#include "tools/kvwrap/preload_list.h"

namespace kvshim::cli {
namespace {

namespace fs = std::filesystem;

bool is_ours(const std::string& path) { return fs::path(path).filename() == "libkvshim.so"; }

/// Environment variables that profiles' obstacles look at are those of the process
/// asked about, not ours.
class BorrowedEnvironment {
 public:
  explicit BorrowedEnvironment(const Environment& environment) {
    for (const char* name : {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"}) {
      const char* now = std::getenv(name);
      before_.emplace_back(name, now != nullptr ? now : "");
      ::setenv(name, value_of(environment, name).c_str(), 1);
    }
  }
  ~BorrowedEnvironment() {
    for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
  }
  BorrowedEnvironment(const BorrowedEnvironment&) = delete;
  BorrowedEnvironment& operator=(const BorrowedEnvironment&) = delete;

 private:
  Environment before_;
};

Findings obstacles_of(const heuristics::ProcessIdentity& identity, const Environment& environment) {
  const BorrowedEnvironment borrowed(environment);
  const heuristics::Profiles profiles = heuristics::Profiles::built_in();
  const heuristics::Recognizer recognizer(profiles, identity, {});
  Findings findings;
  for (const std::string& obstacle : recognizer.obstacles()) {
    const std::size_t remedy = obstacle.find("; remedy: ");
    findings.push_back({Level::kFail, "command line", printable(obstacle.substr(0, remedy), 1024),
                        remedy == std::string::npos ? "" : obstacle.substr(remedy + 10)});
  }
  return findings;
}

bool is_set_id(const std::string& program) {
  struct stat info {};
  return ::stat(program.c_str(), &info) == 0 && (info.st_mode & (S_ISUID | S_ISGID)) != 0;
}

/// A program without a dynamic loader ignores LD_PRELOAD. False for scripts.
bool is_static(const std::string& program) {
  std::ifstream file(program, std::ios::binary);
  std::string head(1 << 16, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(file.gcount()));
  return head.starts_with("\177ELF") && head.find("/ld-linux") == std::string::npos &&
         head.find("/ld-musl") == std::string::npos;
}

Findings check_program(const std::string& program) {
  Findings findings;
  if (is_set_id(program)) {
    findings.push_back({Level::kFail, "program", program + " is set-user-id or set-group-id",
                        "the loader ignores LD_PRELOAD there; start the engine without it"});
  } else if (is_static(program)) {
    findings.push_back({Level::kFail, "program", program + " is linked statically",
                        "LD_PRELOAD has no effect on it; start the engine itself"});
  }
  return findings;
}

std::string status_text(const StatusDocument& status) {
  std::size_t pools = 0;
  std::uint64_t bytes = 0;
  for (const DeviceStatus& device : status.devices) {
    pools += device.pools.size();
    for (const PoolStatus& pool : device.pools) bytes += pool.bytes;
  }
  return std::to_string(pools) + " pools of " + long_bytes(bytes) + " in all";
}

Finding activity_of(std::int64_t pid, const config::Loaded& loaded,
                    const Environment& environment) {
  const std::string path =
      status_folder(loaded.options, environment) + "/" + std::to_string(pid) + ".json";
  std::string complaint;
  const auto status = read_status(path, &complaint);
  if (status) return {Level::kOk, "process", "active: " + status_text(*status), ""};
  return {
      Level::kWarn, "process", "the library is loaded, but has no pools yet",
      "wait until the engine allocates its KV cache; if it has, its log tells which allocations "
      "were left alone and the rule that takes them"};
}

}  // namespace

Findings check_library() {
  std::string complaint;
  const std::string library = kvwrap::find_library(&complaint);
  if (library.empty()) {
    return {{Level::kFail, "library", complaint, "install kvshim again, or set KVSHIM_LIBRARY"}};
  }
  const char* before = std::getenv("LD_PRELOAD");
  const std::string kept = before != nullptr ? before : "";
  ::setenv("LD_PRELOAD", library.c_str(), 1);
  const std::string reason = kvwrap::try_load(kvwrap::own_path(), library);
  if (before != nullptr) {
    ::setenv("LD_PRELOAD", kept.c_str(), 1);
  } else {
    ::unsetenv("LD_PRELOAD");
  }
  if (!reason.empty()) {
    return {{Level::kFail, "library", library + " can't be loaded here: " + reason,
             "it needs x86-64 Linux with glibc 2.35 or newer; build it on this machine"}};
  }
  return {{Level::kOk, "library", library, ""}};
}

Findings judge_preloads(const std::string& ld_preload, const std::string& system_preloads) {
  Findings findings;
  std::string text = system_preloads;
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::vector<std::string> all = kvwrap::split_preload_list(ld_preload);
  for (const std::string& path : kvwrap::split_preload_list(text)) all.push_back(path);
  std::size_t ours = 0;
  for (const std::string& path : all) {
    if (path.empty()) continue;
    if (is_ours(path)) {
      ++ours;
      continue;
    }
    const std::string name = fs::path(path).filename().string();
    const bool wraps_cuda = name.find("vgpu") != std::string::npos ||
                            name.find("cuda") != std::string::npos ||
                            name.find("gpu") != std::string::npos;
    if (wraps_cuda) {
      findings.push_back({Level::kWarn, "preloads",
                          printable(path) + " may wrap the CUDA driver too",
                          "two wrappers see each other as the driver; run without it"});
    } else {
      findings.push_back({Level::kOk, "preloads", printable(path) + " is preloaded too", ""});
    }
  }
  if (ours > 1) {
    findings.push_back({Level::kFail, "preloads",
                        "libkvshim.so is preloaded " + std::to_string(ours) + " times",
                        "leave one of them; kvwrap does that by itself"});
  }
  return findings;
}

Findings check_command(const std::vector<std::string>& command, const std::string& program,
                       const Environment& environment) {
  Findings findings;
  if (program.empty() || ::access(program.c_str(), X_OK) != 0) {
    findings.push_back({Level::kFail, "program",
                        printable(command.front()) + " is not found or can't be run",
                        "look at its spelling and at PATH"});
  } else {
    findings = check_program(program);
  }
  heuristics::ProcessIdentity identity;
  identity.executable = program;
  identity.command_line = command;
  for (Finding& finding : obstacles_of(identity, environment))
    findings.push_back(std::move(finding));
  if (findings.empty()) {
    findings.push_back({Level::kOk, "command line",
                        "nothing in it keeps pools from being elastic; start it with: kvwrap " +
                            printable(joined(command), 200),
                        ""});
  }
  return findings;
}

Findings check_process(std::int64_t pid) {
  const config::ProcessFacts facts = facts_of_process(pid);
  const config::Loaded loaded = config::load(facts);
  Findings findings = check_program(executable_of(pid));
  const std::vector<std::string> files = mapped_files(pid);
  const bool is_loaded = std::any_of(files.begin(), files.end(), is_ours);
  const bool has_cuda = std::any_of(files.begin(), files.end(), [](const std::string& path) {
    return fs::path(path).filename().string().starts_with("libcuda.so");
  });
  const std::string number = std::to_string(pid);
  if (!is_loaded) {
    const bool named =
        value_of(facts.environment, "LD_PRELOAD").find("libkvshim.so") != std::string::npos;
    findings.push_back(
        {Level::kFail, "process",
         files.empty() ? "what " + number + " has loaded can't be seen"
         : named       ? "LD_PRELOAD of " + number + " names libkvshim.so, but it is not loaded"
                       : number + " runs without kvshim",
         files.empty() ? "ask as its user or as root"
         : named ? "the path may be wrong inside its container; kvwrap says what the loader says"
                 : "it can't be added to a running process; start it again with kvwrap"});
  } else if (loaded.disabled_by_environment || !loaded.options.enabled) {
    findings.push_back({Level::kWarn, "process", "the library is loaded, but turned off there",
                        "remove enabled = false or KVSHIM_DISABLE and start it again"});
  } else if (!has_cuda) {
    findings.push_back(
        {Level::kOk, "process", "the library is loaded; the process has not used CUDA so far", ""});
  } else {
    findings.push_back(activity_of(pid, loaded, facts.environment));
  }
  for (Finding& finding : judge_preloads(value_of(facts.environment, "LD_PRELOAD"), "")) {
    findings.push_back(std::move(finding));
  }
  for (Finding& finding : judge_configuration(loaded.source, false, loaded.problems)) {
    if (finding.level != Level::kOk) findings.push_back(std::move(finding));
  }
  heuristics::ProcessIdentity identity;
  identity.executable = executable_of(pid);
  identity.command_line = command_line_of(pid);
  // Ancestors' and the wrapped command line count as the library counts them.
  for (std::size_t i = 1; i < facts.command_lines.size(); ++i) {
    identity.ancestors.push_back({facts.command_lines[i]});
  }
  for (Finding& finding : obstacles_of(identity, facts.environment)) {
    findings.push_back(std::move(finding));
  }
  return findings;
}

}  // namespace kvshim::cli
