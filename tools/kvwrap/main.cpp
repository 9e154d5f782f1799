// kvwrap: runs a command with libkvshim.so preloaded. It prepares, tries, and
// then becomes the command, so exit code, signals and process id are its own.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/loader.h"
#include "tools/kvwrap/command_facts.h"
#include "tools/kvwrap/invocation.h"
#include "tools/kvwrap/library_location.h"
#include "tools/kvwrap/load_trial.h"
#include "tools/kvwrap/named_files.h"
#include "tools/kvwrap/preload_list.h"

namespace kvshim::kvwrap {
namespace {

constexpr int kCannotRun = 126;
constexpr int kNotFound = 127;

using Variables = std::vector<std::pair<std::string, std::string>>;

void say(const std::string& text) { std::fprintf(stderr, "kvwrap: %s\n", text.c_str()); }

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

/// What the command's environment has beyond ours.
Variables variables_for(const Invocation& invocation, const std::string& library) {
  Variables variables;
  variables.emplace_back("LD_PRELOAD", with_library_first(variable("LD_PRELOAD"), library));
  if (!invocation.command.empty()) {
    variables.emplace_back("KVSHIM_COMMAND", encode_command(invocation.command));
  }
  if (!invocation.config_file.empty()) {
    // The command may change its folder before it reads the file.
    variables.emplace_back("KVSHIM_CONFIG",
                           std::filesystem::absolute(invocation.config_file).string());
  }
  std::string sets = variable("KVSHIM_SET");  // of a kvwrap around this one
  for (const std::string& set : invocation.sets) sets += (sets.empty() ? "" : "\n") + set;
  if (!sets.empty()) variables.emplace_back("KVSHIM_SET", sets);
  return variables;
}

/// Mistakes in the options given to kvwrap itself.
bool options_are_good(const Invocation& invocation) {
  bool good = true;
  for (const std::string& set : invocation.sets) {
    if (set.find('\n') != std::string::npos) {
      say("--set: a value can't have several lines");
      good = false;
    }
  }
  for (const std::string& problem :
       config::load_text("", "", config::ProcessFacts{}, invocation.sets).problems) {
    say(problem);
    good = false;
  }
  if (!invocation.config_file.empty()) {
    const int file = ::open(invocation.config_file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
      say("--config " + invocation.config_file + ": " + std::strerror(errno));
      good = false;
    } else {
      ::close(file);
    }
  }
  return good;
}

/// Tells what is wrong in the configuration that the command will read. The
/// command runs all the same: what is wrong has no effect there.
void check_configuration(const Invocation& invocation) {
  config::ProcessFacts facts;
  if (!invocation.command.empty()) {
    facts.executables = {resolved_executable(invocation.command.front())};
    facts.command_lines = {joined_command(invocation.command)};
  }
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos) {
      facts.environment.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    }
  }
  const config::Loaded loaded = config::load(facts);
  for (const std::string& problem : loaded.problems) say(problem);
  if (loaded.disabled_by_environment || !loaded.options.enabled) return;
  for (const std::string& problem : problems_with_files(loaded.options)) say(problem);
}

int become(const std::vector<std::string>& command) {
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  const int error = errno;
  say(command.front() + ": " + (error == ENOENT ? "not found" : std::strerror(error)));
  return error == ENOENT ? kNotFound : kCannotRun;
}

int run(int count, char** arguments) {
  if (count == 3 && std::strcmp(arguments[1], kLoadedArgument) == 0) {
    return is_loaded(arguments[2]) ? 0 : 1;
  }
  int exit_code = 0;
  const auto invocation = parse_invocation(count, arguments, &exit_code);
  if (!invocation) return exit_code;
  if (!options_are_good(*invocation)) return kUsageError;
  std::string complaint;
  const std::string library = find_library(&complaint);
  if (library.empty()) {
    say(complaint);
    return kCannotRun;
  }
  const Variables variables = variables_for(*invocation, library);
  if (invocation->print_environment) {
    for (const auto& [name, value] : variables) {
      std::printf("export %s=%s\n", name.c_str(), shell_quoted(value).c_str());
    }
    return 0;
  }
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  check_configuration(*invocation);
  const std::string self = own_path();
  const std::string reason = try_load(self.empty() ? arguments[0] : self, library);
  if (!reason.empty()) {
    say(library + " can't be loaded here, the command was not started: " + reason);
    say("it needs x86-64 Linux with glibc 2.35 or newer; build it on this machine, or run the "
        "command without kvwrap");
    return kCannotRun;
  }
  return become(invocation->command);
}

}  // namespace
}  // namespace kvshim::kvwrap

int main(int count, char** arguments) {
  try {
    return kvshim::kvwrap::run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvwrap: %s\n", error.what());
    return 125;
  }
}
