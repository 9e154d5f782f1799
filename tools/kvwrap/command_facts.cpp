#include "tools/kvwrap/command_facts.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace kvshim::kvwrap {

std::string encode_command(const std::vector<std::string>& command) {
  constexpr char kUnitSeparator = '\x1f';
  constexpr std::size_t kLongest = 32 * 1024;
  std::string text;
  for (std::size_t i = 0; i < command.size() && text.size() <= kLongest; ++i) {
    if (i != 0) text += kUnitSeparator;
    text += command[i];
  }
  if (text.size() > kLongest) text.resize(kLongest);
  return text;
}

std::string joined_command(const std::vector<std::string>& command) {
  std::string text;
  for (const std::string& argument : command) {
    if (!text.empty()) text += ' ';
    text += argument;
  }
  return text;
}

std::string resolved_executable(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "/bin:/usr/bin" : path;
  for (;;) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    std::string candidate(rest.substr(0, end));
    candidate += (candidate.empty() ? "./" : "/") + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    if (end == rest.size()) return name;
    rest.remove_prefix(end + 1);
  }
}

std::string shell_quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') {
      result += "'\\''";
    } else {
      result += c;
    }
  }
  return result + "'";
}

}  // namespace kvshim::kvwrap
