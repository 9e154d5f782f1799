#include "tools/kvwrap/named_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "text/text_file.h"

namespace kvshim::kvwrap {
namespace {

/// Empty when lines can be appended there, as far as that shows without opening it.
std::string why_no_log(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    if (errno != ENOENT) return std::strerror(errno);
    const std::string folder = std::filesystem::path(path).parent_path().string();
    if (::access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) == 0) return {};
    return std::strerror(errno);
  }
  if (S_ISDIR(status.st_mode)) return std::strerror(EISDIR);
  if (S_ISBLK(status.st_mode) || S_ISSOCK(status.st_mode)) return "not a file";
  return ::access(path.c_str(), W_OK) == 0 ? std::string() : std::strerror(errno);
}

}  // namespace

std::vector<std::string> problems_with_files(const config::Options& options) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  std::vector<std::string> problems;
  if (!options.log_file.empty()) {
    const std::string why = why_no_log(options.log_file);
    if (!why.empty()) {
      problems.push_back("log_file " + options.log_file + " can't be opened (" + why +
                         "); the log goes to standard error");
    }
  }
  text::ReadProblem problem;
  if (!options.profiles.empty() && !text::read_text_file(options.profiles, kMostBytes, &problem)) {
    problems.push_back("profiles " + options.profiles + " can't be read (" + problem.words +
                       "); the built-in ones hold");
  }
  return problems;
}

}  // namespace kvshim::kvwrap
