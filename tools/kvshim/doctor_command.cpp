// kvshim doctor.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/driver_probe.h"
#include "tools/kvshim/engine_checks.h"
#include "tools/kvshim/json_output.h"
#include "tools/kvshim/machine_checks.h"
#include "tools/kvshim/own_configuration.h"
#include "tools/kvshim/process_files.h"
#include "tools/kvshim/snapshot_source.h"
#include "tools/kvwrap/command_facts.h"

namespace kvshim::cli {
namespace {

const char* name_of(Level level) {
  switch (level) {
    case Level::kOk:
      return "OK";
    case Level::kWarn:
      return "WARN";
    case Level::kFail:
      break;
  }
  return "FAIL";
}

void add(Findings more, Findings* all) {
  all->insert(all->end(), std::make_move_iterator(more.begin()),
              std::make_move_iterator(more.end()));
}

/// The configuration as the command (or this program) would read it.
config::Loaded configuration_for(const std::vector<std::string>& command) {
  config::ProcessFacts facts = own_facts();
  if (!command.empty()) {
    facts.executables = {kvwrap::resolved_executable(command.front())};
    facts.command_lines = {joined(command)};
  }
  return config::load(facts);
}

Findings examine(const Invocation& invocation) {
  Findings all = judge_driver(probe_driver());
  add(check_devices(), &all);
  const config::ProcessFacts own = own_facts();
  const config::Loaded loaded = configuration_for(invocation.wrapped);
  add(check_folders(status_folder(loaded.options, own.environment), segment_folder()), &all);
  add(check_segments(segment_folder()), &all);
  add(check_host_memory(), &all);
  add(judge_configuration(loaded.source, loaded.disabled_by_environment || !loaded.options.enabled,
                          loaded.problems),
      &all);
  add(check_library(), &all);
  add(judge_preloads(value_of(own.environment, "LD_PRELOAD"), text_of("/etc/ld.so.preload")), &all);
  if (!invocation.wrapped.empty()) {
    add(check_command(invocation.wrapped, kvwrap::resolved_executable(invocation.wrapped.front()),
                      own.environment),
        &all);
  }
  if (!invocation.target.empty()) add(check_process(pid_of(invocation.target)), &all);
  return all;
}

}  // namespace

Exit run_doctor(const Invocation& invocation) {
  const Findings findings = examine(invocation);
  nlohmann::json document = nlohmann::json::array();
  for (const Finding& finding : findings) {
    document.push_back({{"level", name_of(finding.level)},
                        {"subject", finding.subject},
                        {"text", finding.text},
                        {"remedy", finding.remedy}});
    if (invocation.json) continue;
    std::printf("%-4s  %s: %s\n", name_of(finding.level), finding.subject.c_str(),
                finding.text.c_str());
    if (!finding.remedy.empty()) std::printf("      -> %s\n", finding.remedy.c_str());
  }
  const bool failed = std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.level == Level::kFail;
  });
  if (invocation.json) print_json({{"findings", document}, {"good", !failed}});
  return failed ? Exit::kFindings : Exit::kDone;
}

}  // namespace kvshim::cli
