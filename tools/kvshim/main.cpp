// kvshim: shows and steers the processes that run under kvwrap.
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/driver_probe.h"
#include "tools/kvshim/gpu_probe.h"
#include "tools/kvshim/output.h"
#include "tools/kvwrap/load_trial.h"

namespace kvshim::cli {
namespace {

struct Command {
  const char* name;
  Exit (*run)(const Invocation& invocation);
};

constexpr std::array<Command, 16> kCommands{{
    {"top", run_top},
    {"list", run_list},
    {"limit", run_control},
    {"reserve", run_control},
    {"priority", run_control},
    {"release", run_control},
    {"pause", run_control},
    {"resume", run_control},
    {"explain", run_explain},
    {"doctor", run_doctor},
    {"config check", run_config},
    {"config sample", run_config},
    {"config show", run_config},
    {"metrics", run_metrics},
    {"bench", run_bench},
    {"completion", run_completion},
}};

Exit run(int count, char** arguments) {
  if (count == 2 && std::strcmp(arguments[1], kProbeArgument) == 0) return print_driver_facts();
  if (count == 3 && std::strcmp(arguments[1], kvwrap::kLoadedArgument) == 0) {
    return kvwrap::is_loaded(arguments[2]) ? Exit::kDone : Exit::kFindings;
  }
  int code = 0;
  const auto invocation = parse_invocation(count, arguments, &code);
  if (!invocation) return static_cast<Exit>(code);
  for (const Command& command : kCommands) {
    if (invocation->command != command.name) continue;
    try {
      return command.run(*invocation);
    } catch (const Failure& failure) {
      return tell(failure, invocation->json);
    }
  }
  throw std::logic_error("the command '" + invocation->command + "' has no function");
}

}  // namespace
}  // namespace kvshim::cli

int main(int count, char** arguments) {
  // A reader that goes away (kvshim list | head) ends the output, not with a signal.
  std::signal(SIGPIPE, SIG_IGN);
  int code = static_cast<int>(kvshim::cli::Exit::kInternal);
  try {
    code = static_cast<int>(kvshim::cli::with_output_flushed(kvshim::cli::run(count, arguments)));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvshim: %s; please report this\n", error.what());
  }
  std::fflush(nullptr);
  // No destructors where a thread may be stuck in a driver's library.
  if (kvshim::cli::GpuProbe::was_started()) std::_Exit(code);
  return code;
}
