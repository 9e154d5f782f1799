#include "heuristics/process_identity.h"

#include <fcntl.h>
#include <link.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "heuristics/recognizer.h"

namespace kvshim::heuristics {
namespace {

constexpr std::size_t kMaxProcBytes = std::size_t{1} << 20;
constexpr int kMaxAncestors = 16;

std::optional<std::string> read_proc(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  std::string text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = read(file, buffer, sizeof buffer)) > 0 && text.size() < kMaxProcBytes) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  close(file);
  if (got < 0) return std::nullopt;
  return text;
}

std::vector<std::string> split(const std::string& text, char separator, bool terminated) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
    if (!terminated && begin == text.size()) parts.emplace_back();
  }
  return parts;
}

std::vector<std::string> command_line_of(const std::string& process) {
  const auto text = read_proc("/proc/" + process + "/cmdline");
  return text ? split(*text, '\0', true) : std::vector<std::string>{};
}

// The fourth field of stat; the second is in parentheses and may hold anything.
std::string parent_of(const std::string& process) {
  const auto text = read_proc("/proc/" + process + "/stat");
  if (!text) return {};
  const std::size_t name_end = text->rfind(')');
  if (name_end == std::string::npos || name_end + 4 > text->size()) return {};
  const std::size_t begin = name_end + 4;  // ") S "
  return text->substr(begin, text->find(' ', begin) - begin);
}

// The environment a process was started with names this library.
bool is_preloaded(const std::string& process) {
  const auto environment = read_proc("/proc/" + process + "/environ");
  if (!environment) return false;
  for (const std::string& variable : split(*environment, '\0', true)) {
    if (variable.starts_with("LD_PRELOAD=") && variable.find("kvshim") != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> loaded_objects() {
  std::vector<std::string> objects;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* data) {
        try {
          static_cast<std::vector<std::string>*>(data)->emplace_back(info->dlpi_name);
        } catch (...) {
          return 1;
        }
        return 0;
      },
      &objects);
  return objects;
}

std::vector<std::string> split_wrapped_command(const std::string& text) {
  return split(text, '\x1f', false);
}

ProcessIdentity read_process_identity() {
  ProcessIdentity identity;
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length > 0) identity.executable.assign(path, static_cast<std::size_t>(length));
  identity.command_line = command_line_of("self");
  std::string process = parent_of("self");
  for (int i = 0; i < kMaxAncestors && !process.empty() && process != "0" && is_preloaded(process);
       ++i) {
    identity.ancestors.push_back(command_line_of(process));
    process = parent_of(process);
  }
  if (const char* wrapped = std::getenv("KVSHIM_COMMAND")) {
    identity.wrapped_command = split_wrapped_command(wrapped);
  }
  return identity;
}

}  // namespace kvshim::heuristics
