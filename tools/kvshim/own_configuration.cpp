#include "tools/kvshim/own_configuration.h"

#include <unistd.h>

#include <charconv>
#include <string_view>
#include <system_error>

#include "heuristics/process_identity.h"
#include "tools/kvshim/outcome.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/snapshot.h"

extern char** environ;

namespace kvshim::cli {
namespace {

constexpr int kMostAncestors = 16;  // as the library looks back

bool names_the_library(const std::vector<std::pair<std::string, std::string>>& environment) {
  return value_of(environment, "LD_PRELOAD").find("kvshim") != std::string::npos;
}

}  // namespace

config::ProcessFacts own_facts() {
  config::ProcessFacts facts;
  facts.executables = {executable_of(::getpid())};
  facts.command_lines = {joined(command_line_of(::getpid()))};
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    facts.environment.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  return facts;
}

std::int64_t pid_of(const std::string& text) {
  std::int64_t pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc() || end != text.data() + text.size() || pid <= 0) {
    throw Failure(Exit::kUsage, "--pid: '" + printable(text) + "' is no process id");
  }
  return pid;
}

config::ProcessFacts facts_of_process(std::int64_t pid) {
  if (!process_exists(pid)) {
    throw Failure(Exit::kNoProcess, "there is no process " + std::to_string(pid));
  }
  config::ProcessFacts facts;
  if (!environment_of(pid, &facts.environment)) {
    throw Failure(Exit::kNoPermission, "the environment of process " + std::to_string(pid) +
                                           " can't be read; ask as its user or as root");
  }
  facts.executables = {executable_of(pid)};
  facts.command_lines = {joined(command_line_of(pid))};
  std::int64_t ancestor = parent_of(pid);
  for (int i = 0; i < kMostAncestors && ancestor > 0; ++i, ancestor = parent_of(ancestor)) {
    std::vector<std::pair<std::string, std::string>> environment;
    if (!environment_of(ancestor, &environment) || !names_the_library(environment)) break;
    const std::vector<std::string> command = command_line_of(ancestor);
    facts.command_lines.push_back(joined(command));
    if (!command.empty()) facts.executables.push_back(command.front());
  }
  const std::string wrapped = value_of(facts.environment, "KVSHIM_COMMAND");
  if (!wrapped.empty()) {
    const std::vector<std::string> command = heuristics::split_wrapped_command(wrapped);
    facts.command_lines.push_back(joined(command));
    facts.executables.push_back(command.front());
  }
  return facts;
}

const config::Loaded& own_configuration() {
  static const config::Loaded loaded = config::load(own_facts());
  return loaded;
}

std::string status_folder(const config::Options& options,
                          const std::vector<std::pair<std::string, std::string>>& environment) {
  if (!options.status_dir.empty()) return options.status_dir;
  const std::string folder = value_of(environment, "XDG_RUNTIME_DIR");
  if (folder.starts_with('/')) return folder + "/kvshim";
  return "/tmp/kvshim-" + std::to_string(::getuid());
}

}  // namespace kvshim::cli
