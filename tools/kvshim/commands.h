// The commands, one function each. All throw Failure when they can't do what was
// asked, and return the exit code otherwise.
#pragma once

#include "tools/kvshim/invocation.h"
#include "tools/kvshim/outcome.h"

namespace kvshim::cli {

Exit run_top(const Invocation& invocation);
Exit run_list(const Invocation& invocation);
Exit run_control(const Invocation& invocation);  // limit, reserve, priority, release, pause, resume
Exit run_explain(const Invocation& invocation);
Exit run_doctor(const Invocation& invocation);
Exit run_config(const Invocation& invocation);  // check, sample, show
Exit run_metrics(const Invocation& invocation);
Exit run_bench(const Invocation& invocation);
Exit run_completion(const Invocation& invocation);

}  // namespace kvshim::cli
