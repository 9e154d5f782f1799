// kvshim completion.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/completion_text.h"

namespace kvshim::cli {

Exit run_completion(const Invocation& invocation) {
  CLI::App app;
  Invocation described;
  describe(app, described);
  std::fputs(completion_text(app, invocation.shell).c_str(), stdout);
  return Exit::kDone;
}

}  // namespace kvshim::cli
