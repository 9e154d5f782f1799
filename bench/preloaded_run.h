// Programs that start themselves again under the preload.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace kvshim::bench {

using Environment = std::vector<std::pair<std::string, std::string>>;

/// KVSHIM_LIBRARY, else the library of the build tree that this program lies
/// in. Ends the process with 2 and a message when there is none.
std::string library_path();

/// Whether this process was started by run_preloaded() or become_preloaded().
bool is_preloaded_child();

/// A folder of this run's own for configuration, log and status; removed when
/// the process that made it ends normally.
const std::string& work_folder();

/// Settings under which every allocation of 16 MiB and more is a pool, the log
/// goes to <work_folder>/<name>.log, and `options` (TOML lines) hold.
Environment shim_environment(const std::string& name, const std::string& options);

/// Runs this program with `arguments`, preloaded unless `plain`, and returns
/// what it wrote to standard output. Its standard error is ours. Empty when it
/// failed; that is said.
std::string run_again(const std::vector<std::string>& arguments, const Environment& environment,
                      bool plain);

/// Replaces this process by itself under the preload, with the same arguments.
void become_preloaded(char** arguments, const Environment& environment);

}  // namespace kvshim::bench
