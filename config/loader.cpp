#include "config/loader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "config/environment.h"
#include "config/toml_file.h"

namespace kvshim::config {
namespace {

constexpr off_t kLargestFile = 1 << 20;

/// The file's text; nothing with errno set. Never waits: a path can name a
/// FIFO, and this runs inside the engine.
std::optional<std::string> text_of_file(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return std::nullopt;
  std::string text;
  struct stat status {};
  int error = 0;
  if (::fstat(file, &status) != 0) {
    error = errno;
  } else if (S_ISDIR(status.st_mode)) {
    error = EISDIR;
  } else if (S_ISREG(status.st_mode)) {  // others (/dev/null) count as empty
    std::array<char, 4096> buffer{};
    for (;;) {
      const ssize_t count = ::read(file, buffer.data(), buffer.size());
      if (count == 0) break;
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 || static_cast<off_t>(text.size()) + count > kLargestFile) {
        error = count < 0 ? errno : EFBIG;
        break;
      }
      text.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }
  ::close(file);
  if (error != 0) {
    errno = error;
    return std::nullopt;
  }
  return text;
}

/// The places of the file, first to last. One named by the user is the only one.
std::vector<std::string> places(const Environment& environment, bool* named_by_user) {
  const std::string* named = find_variable(environment, "KVSHIM_CONFIG");
  *named_by_user = named != nullptr && !named->empty();
  if (*named_by_user) return {*named};
  std::vector<std::string> result;
  const std::string* folder = find_variable(environment, "XDG_CONFIG_HOME");
  const std::string* home = find_variable(environment, "HOME");
  // The XDG specification has relative paths ignored.
  if (folder != nullptr && folder->starts_with('/')) {
    result.push_back(*folder + "/kvshim/kvshim.toml");
  } else if (home != nullptr && home->starts_with('/')) {
    result.push_back(*home + "/.config/kvshim/kvshim.toml");
  }
  result.emplace_back("/etc/kvshim/kvshim.toml");
  return result;
}

void read_everything(const std::string& toml, const std::string& file, const ProcessFacts& facts,
                     std::span<const std::string> sets, Loaded* loaded) {
  read_toml(toml, file, facts, &loaded->options, &loaded->problems);
  read_environment(facts.environment, &loaded->options, &loaded->problems);
  read_sets(sets, &loaded->options, &loaded->problems);
  loaded->disabled_by_environment = disabled_by(facts.environment);
}

void say_out_of_memory(Loaded* loaded) noexcept {
  try {
    loaded->problems.emplace_back("the configuration was not read to its end: out of memory");
  } catch (...) {  // not even room for that line
  }
}

}  // namespace

Loaded load(const ProcessFacts& facts) noexcept {
  Loaded loaded;
  try {
    bool named_by_user = false;
    std::string text;
    loaded.source = "defaults";
    for (const std::string& place : places(facts.environment, &named_by_user)) {
      auto found = text_of_file(place);
      if (found) {
        text = std::move(*found);
        loaded.source = place;
        break;
      }
      const int error = errno;
      const bool absent = error == ENOENT || error == ENOTDIR;
      if (!absent || named_by_user) {
        loaded.problems.push_back(place + ": can't be read (" + std::strerror(error) + ")" +
                                  (named_by_user ? ", named by KVSHIM_CONFIG" : "") +
                                  "; the defaults hold");
        break;  // it is the first found, so no other takes its place
      }
    }
    const std::string* sets = find_variable(facts.environment, "KVSHIM_SET");
    read_everything(text, loaded.source, facts,
                    sets == nullptr ? std::vector<std::string>() : split_sets(*sets), &loaded);
  } catch (...) {
    say_out_of_memory(&loaded);
  }
  return loaded;
}

Loaded load_text(const std::string& toml, const std::string& file_name, const ProcessFacts& facts,
                 std::span<const std::string> sets) noexcept {
  Loaded loaded;
  try {
    loaded.source = file_name;
    read_everything(toml, file_name, facts, sets, &loaded);
  } catch (...) {
    say_out_of_memory(&loaded);
  }
  return loaded;
}

}  // namespace kvshim::config
