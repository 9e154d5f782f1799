#include "tools/kvwrap/invocation.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

namespace kvshim::kvwrap {
namespace {

constexpr const char* kDescription =
    "Runs a command with elastic GPU memory: puts libkvshim.so between it and the CUDA driver.";

constexpr const char* kFooter =
    "\nExample:\n  kvwrap vllm serve Qwen/Qwen2.5-0.5B-Instruct\n\n"
    "The exit code is the command's; 126: it (or the library) can't be run here, 127: it was not\n"
    "found, 2: a mistake in kvwrap's own options. KVSHIM_DISABLE=1 turns the library off.";

/// CLI11 doesn't know that a command follows.
class UsageFormatter final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App*, std::string) const override {
    return "Usage: kvwrap [options] <command> [arguments]\n";
  }
};

}  // namespace

std::optional<Invocation> parse_invocation(int count, char** arguments, int* exit_code) {
  Invocation invocation;
  std::string log_level;
  CLI::App app(kDescription, "kvwrap");
  app.formatter(std::make_shared<UsageFormatter>());
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("kvwrap ") + KVSHIM_VERSION,
                       "Print the version and exit");
  app.add_option("--config", invocation.config_file,
                 "The configuration file, in place of the ones looked for")
      ->type_name("FILE")
      ->check([](const std::string& file) {
        return file.empty() ? std::string("a file name is expected") : std::string();
      });
  app.add_option("--set", invocation.sets, "Set an option, over file and environment; repeatable")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app.add_option("--log-level", log_level, "The same as --set log_level=LEVEL")->type_name("LEVEL");
  app.add_flag("--print-env", invocation.print_environment,
               "Print the variables for a shell to set (eval) instead of running a command");
  // The command's own options are the command's.
  app.prefix_command();
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return std::string("kvwrap: ") + error.what() + " (see kvwrap --help)\n";
  });
  try {
    app.parse(count, arguments);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    *exit_code = code == 0 ? 0 : kUsageError;
    return std::nullopt;
  }
  if (!log_level.empty()) invocation.sets.push_back("log_level=" + log_level);
  invocation.command = app.remaining();
  if (!invocation.command.empty() && invocation.command.front() == "--") {
    invocation.command.erase(invocation.command.begin());
  } else if (!invocation.command.empty() && invocation.command.front().starts_with('-')) {
    std::cerr << "kvwrap: unknown option " << invocation.command.front()
              << " (see kvwrap --help)\n";
    *exit_code = kUsageError;
    return std::nullopt;
  }
  if (invocation.command.empty() && !invocation.print_environment) {
    std::cerr << "kvwrap: no command to run (see kvwrap --help)\n";
    *exit_code = kUsageError;
    return std::nullopt;
  }
  return invocation;
}

}  // namespace kvshim::kvwrap
