// kvshim config check, sample and show.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>

#include <fcntl.h>
#include <unistd.h>

#include "config/option_table.h"
#include "tools/kvshim/commands.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/own_configuration.h"
#include "tools/kvshim/process_files.h"

namespace kvshim::cli {
namespace {

config::Loaded load_file(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw Failure(Exit::kCannotWrite, path + ": " + std::strerror(errno));
  ::close(file);
  // As an engine would read it, which also tells what is wrong with its size or kind.
  config::ProcessFacts facts = own_facts();
  std::erase_if(facts.environment,
                [](const auto& variable) { return variable.first.starts_with("KVSHIM_"); });
  facts.environment.emplace_back("KVSHIM_CONFIG", path);
  config::Loaded loaded = config::load(facts);
  // The user has named it here.
  constexpr std::string_view kNamed = ", named by KVSHIM_CONFIG";
  for (std::string& problem : loaded.problems) {
    if (!problem.starts_with(path)) continue;
    const std::size_t at = problem.find(kNamed, path.size());
    if (at != std::string::npos) problem.erase(at, kNamed.size());
  }
  return loaded;
}

Exit check(const Invocation& invocation) {
  const config::Loaded loaded =
      invocation.file.empty() ? own_configuration() : load_file(invocation.file);
  if (invocation.json) {
    print_json({{"source", loaded.source}, {"problems", loaded.problems}});
  } else {
    for (const std::string& problem : loaded.problems) std::printf("%s\n", problem.c_str());
    if (loaded.problems.empty()) {
      std::printf("%s: good\n", loaded.source == "defaults" ? "no file, no variables: the defaults"
                                                            : loaded.source.c_str());
    }
  }
  return loaded.problems.empty() ? Exit::kDone : Exit::kFindings;
}

Exit show(const Invocation& invocation) {
  const config::Loaded loaded = invocation.target.empty()
                                    ? own_configuration()
                                    : config::load(facts_of_process(pid_of(invocation.target)));
  const config::Options defaults;
  nlohmann::json options = nlohmann::json::object();
  std::string text = "# from " + loaded.source;
  if (!invocation.target.empty()) {
    text += "; as process " + invocation.target + " would read it now (it read it when it started)";
  }
  text += "\n";
  if (loaded.disabled_by_environment) text += "# KVSHIM_DISABLE turns everything off\n";
  for (const config::OptionEntry& option : config::option_table()) {
    const std::string value = option.as_toml(loaded.options);
    const bool is_default = value == option.as_toml(defaults);
    options[std::string(option.name)] = {{"value", value}, {"default", is_default}};
    text +=
        std::string(option.name) + " = " + value + (is_default ? "" : "  # not the default") + "\n";
  }
  text += "# " + std::to_string(loaded.options.rules.size()) + " rules\n";
  if (invocation.json) {
    print_json({{"source", loaded.source},
                {"disabled", loaded.disabled_by_environment || !loaded.options.enabled},
                {"options", options},
                {"rules", loaded.options.rules.size()},
                {"problems", loaded.problems}});
  } else {
    std::fputs(text.c_str(), stdout);
    for (const std::string& problem : loaded.problems) {
      std::fprintf(stderr, "kvshim: %s\n", problem.c_str());
    }
  }
  return Exit::kDone;
}

}  // namespace

Exit run_config(const Invocation& invocation) {
  if (invocation.command == "config sample") {
    std::fputs(config::sample_file().c_str(), stdout);
    return Exit::kDone;
  }
  return invocation.command == "config check" ? check(invocation) : show(invocation);
}

}  // namespace kvshim::cli
