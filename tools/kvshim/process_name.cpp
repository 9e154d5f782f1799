#include "tools/kvshim/process_name.h"

#include <algorithm>
#include <sstream>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

std::string base_of(const std::string& path) {
  const std::size_t slash = path.find_last_not_of('/');
  const std::string trimmed = slash == std::string::npos ? path : path.substr(0, slash + 1);
  return trimmed.substr(trimmed.rfind('/') + 1);
}

/// The script or module that an interpreter runs; empty when there is none.
std::string script_of(const std::string& command_line) {
  std::istringstream words(command_line);
  std::string word;
  words >> word;  // the interpreter
  while (words >> word) {
    if (word == "-m") return words >> word ? word : std::string();
    if (word == "-c") return {};
    if (!word.starts_with('-')) return base_of(word);
  }
  return {};
}

}  // namespace

std::string display_name(const std::string& executable, const std::string& command_line) {
  std::string name = executable;
  const std::string first = base_of(command_line.substr(0, command_line.find(' ')));
  if (name.starts_with("python") || name.starts_with("node")) {
    // A process that has given itself a title has no interpreter on its command line.
    const bool titled = !first.empty() && !first.starts_with(name.substr(0, 4));
    const std::string script = titled ? first : script_of(command_line);
    if (!script.empty()) name = script;
  }
  if (name.empty()) name = first;
  if (name.empty()) name = "?";
  name = printable(name, 64);
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

}  // namespace kvshim::cli
