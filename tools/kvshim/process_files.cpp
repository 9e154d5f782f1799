#include "tools/kvshim/process_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <system_error>

namespace kvshim::cli {
namespace {

constexpr std::size_t kLongestFile = std::size_t{16} << 20;

std::string file_of(std::int64_t pid, const char* name) {
  return "/proc/" + std::to_string(pid) + "/" + name;
}

std::vector<std::string> zero_separated(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\0', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

std::string text_of(const std::string& path) {
  std::string text;
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return text;
  std::array<char, 16384> buffer{};
  for (;;) {
    const ssize_t count = ::read(file, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0 || text.size() > kLongestFile) break;
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  ::close(file);
  return text;
}

bool process_exists(std::int64_t pid) { return user_of(pid) >= 0; }

std::int64_t user_of(std::int64_t pid) {
  struct stat info {};
  if (pid <= 0 || ::stat(file_of(pid, "").c_str(), &info) != 0) return -1;
  return info.st_uid;
}

std::vector<std::string> command_line_of(std::int64_t pid) {
  return zero_separated(text_of(file_of(pid, "cmdline")));
}

std::string executable_of(std::int64_t pid) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink(file_of(pid, "exe"), error);
  return error ? std::string() : path.string();
}

bool environment_of(std::int64_t pid, std::vector<std::pair<std::string, std::string>>* variables) {
  if (::access(file_of(pid, "environ").c_str(), R_OK) != 0) return false;
  const std::string text = text_of(file_of(pid, "environ"));
  for (const std::string& entry : zero_separated(text)) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    variables->emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return true;
}

std::vector<std::string> mapped_files(std::int64_t pid) {
  std::vector<std::string> files;
  std::istringstream lines(text_of(file_of(pid, "maps")));
  std::string line;
  while (std::getline(lines, line)) {
    const std::size_t slash = line.find('/');
    if (slash == std::string::npos) continue;
    std::string path = line.substr(slash);
    if (files.empty() || files.back() != path) files.push_back(std::move(path));
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

std::int64_t parent_of(std::int64_t pid) {
  const std::string text = text_of(file_of(pid, "stat"));
  // The second field is in parentheses and may hold anything.
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos || name_end + 4 > text.size()) return 0;
  return std::strtoll(text.c_str() + name_end + 4, nullptr, 10);
}

std::string value_of(const std::vector<std::pair<std::string, std::string>>& variables,
                     const std::string& name) {
  for (const auto& [known, value] : variables) {
    if (known == name) return value;
  }
  return {};
}

std::string joined(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + word;
  return line;
}

}  // namespace kvshim::cli
