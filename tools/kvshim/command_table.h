// A command line's description as plain values, read from CLI11: what manual pages
// and completions are written from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace kvshim::cli {

enum class ValueKind : std::uint8_t { kOther, kChoices, kProcess, kFile, kCommand };

struct ValueDescription {
  std::string name;  // "SECONDS"
  ValueKind kind = ValueKind::kOther;
  std::vector<std::string> choices;
};

struct OptionDescription {
  std::vector<std::string> names;  // "-h", "--help"; empty for a positional
  std::string text;
  bool takes_value = false;
  bool required = false;
  bool repeats = false;
  ValueDescription value;
};

struct CommandDescription {
  std::string name;  // "" for the program itself, "config check"
  std::string text;
  std::string footer;
  std::vector<std::string> commands;  // below it
  std::vector<OptionDescription> options;
  std::vector<OptionDescription> positionals;
};

/// The program and all commands, each before those below it. Hidden options (of
/// the group "") are left out.
std::vector<CommandDescription> command_table(const CLI::App& app);

}  // namespace kvshim::cli
