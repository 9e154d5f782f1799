// Waking up, forking, exiting.
#include "preload/shim.h"

#include <pthread.h>

#include <cstdlib>
#include <mutex>
#include <string>

#include "config/loader.h"
#include "observe/log.h"
#include "preload/deferred_frees.h"
#include "preload/engine_memory.h"
#include "preload/gate.h"
#include "preload/group_quota.h"
#include "preload/launch.h"
#include "preload/plain_memory.h"
#include "preload/real_driver.h"
#include "preload/runtime.h"
#include "preload/status.h"

extern char** environ;

namespace kvshim::preload {

namespace shim_detail {
std::atomic<bool> active{false};
}

namespace {

std::atomic<bool> tried{false};

std::string joined(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  return line;
}

config::ProcessFacts facts_of(const heuristics::ProcessIdentity& identity) {
  config::ProcessFacts facts;
  facts.executables.push_back(identity.executable);
  facts.command_lines.push_back(joined(identity.command_line));
  for (const auto& ancestor : identity.ancestors) {
    facts.command_lines.push_back(joined(ancestor));
    if (!ancestor.empty()) facts.executables.push_back(ancestor.front());
  }
  if (!identity.wrapped_command.empty()) {
    facts.command_lines.push_back(joined(identity.wrapped_command));
    facts.executables.push_back(identity.wrapped_command.front());
  }
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text(*entry);
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos) {
      facts.environment.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  return facts;
}

// CUDA does not survive a fork; neither does anything of ours. The parent's
// objects are left where they are: their locks may be held by threads that
// don't exist here.
void in_forked_child() {
  shim_detail::active.store(false);
  Runtime::publish(nullptr);
  gate_detail::arena_bytes.store(0);
  log::abandon_after_fork();
  abandon_status_after_fork();
  abandon_launch_state_after_fork();
  forget_deferred_frees_after_fork();
  forget_plain_after_fork();
  forget_engine_memory_after_fork();
  forget_group_quota_after_fork();
  tried.store(false);
}

void at_exit() {
  summarize_at_exit();
  if (shim_active()) log::close();
}

std::string driver_version() {
  int version = 0;
  if (real().cuDriverGetVersion == nullptr || real().cuDriverGetVersion(&version) != CUDA_SUCCESS) {
    return "unknown";
  }
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string first_gpu() {
  char name[96] = "no GPU";
  CUdevice device = 0;
  if (real().cuDeviceGet != nullptr && real().cuDeviceGet(&device, 0) == CUDA_SUCCESS) {
    real().cuDeviceGetName(name, sizeof(name), device);
  }
  return name;
}

void wake_up() {
  heuristics::ProcessIdentity identity = heuristics::read_process_identity();
  config::Loaded loaded = config::load(facts_of(identity));
  if (loaded.disabled_by_environment || !loaded.options.enabled) return;
  log::open(loaded.options.log_level, loaded.options.log_file);
  auto* runtime = new Runtime(std::move(loaded), std::move(identity));
  for (const std::string& problem : runtime->configuration().problems) log::warning(problem);
  static std::once_flag handlers;
  std::call_once(handlers, [] {
    pthread_atfork(nullptr, nullptr, in_forked_child);
    std::atexit(at_exit);
  });
  log::info("active: version " KVSHIM_VERSION ", configuration from " +
            runtime->configuration().source + ", driver for CUDA " + driver_version() + ", " +
            first_gpu());
  const std::vector<std::string> obstacles = runtime->recognizer().obstacles();
  for (const std::string& obstacle : obstacles) log::warning(obstacle);
  Runtime::publish(runtime);
  shim_detail::active.store(true, std::memory_order_release);
}

}  // namespace

void shim_after_cuinit(CUresult result) noexcept {
  if (result != CUDA_SUCCESS || tried.exchange(true)) return;
  try {
    wake_up();
  } catch (...) {
    log::error("the shim could not start and stays inactive in this process");
  }
}

}  // namespace kvshim::preload
