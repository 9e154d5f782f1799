// The command line of kvshim: what was asked for.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace kvshim::cli {

/// Everything that a command line can say. Only the members of the command that
/// was given mean anything.
struct Invocation {
  std::string command;  // "top"; of config "config check"
  bool json = false;

  bool once = false;        // top
  bool watch = false;       // list
  bool names = false;       // list: for completion
  double interval = 0;      // seconds; 0: the command's own default
  std::string sort = "kv";  // top
  int width = 0;            // top --once; 0: the terminal's
  int height = 0;
  std::string target;                // PID or NAME
  std::string value;                 // limit, reserve
  int priority = 0;                  // priority
  std::string gpu;                   // UUID (or its start) or index; empty: all
  double wait = 1;                   // seconds for an acknowledgement
  bool all = false;                  // release
  std::vector<std::string> wrapped;  // doctor -- command
  std::string file;                  // config check, metrics --textfile
  std::string listen;                // metrics
  bool quick = false;                // bench
  std::string shell;                 // completion
};

/// Describes every command, option and text to `app`; parsing fills `invocation`,
/// which must outlive `app`. The manual pages and completions come from the same
/// description.
void describe(CLI::App& app, Invocation& invocation);

/// Reads a command line. Nothing, with `*exit_code` set, when that was all there
/// was to do (--help, --version) or when there is a mistake (said on standard
/// error).
std::optional<Invocation> parse_invocation(int count, char** arguments, int* exit_code);

}  // namespace kvshim::cli
