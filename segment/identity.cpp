// Who this process is, and whether another one still is who it was.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "segment/contents.h"

namespace kvshim::segment {
namespace {

// Files of /proc, at most `most` bytes; empty when they can't be read.
std::string read_file(const std::string& path, std::size_t most = 4096) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return {};
  std::string text(most, '\0');
  std::size_t length = 0;
  while (length < most) {
    const ssize_t part = read(file, text.data() + length, most - length);
    if (part <= 0) break;
    length += static_cast<std::size_t>(part);
  }
  close(file);
  text.resize(length);
  return text;
}

std::string without_newline(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

std::uint64_t boot_hash() {
  const std::string id = without_newline(read_file("/proc/sys/kernel/random/boot_id"));
  if (id.empty()) return 0;
  std::uint64_t hash = 0;
  for (const char c : id) {
    const std::uint64_t words[2] = {hash, static_cast<unsigned char>(c)};
    hash = checksum(words, 2, 0);
  }
  return hash;
}

std::uint64_t pid_namespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino : 0;
}

struct ProcessState {
  char state = 'X';
  std::uint64_t start_time = 0;
};

// proc(5): the name, field 2, may hold blanks and parentheses itself.
ProcessState read_stat(const std::string& pid) {
  const std::string stat = read_file("/proc/" + pid + "/stat");
  const std::size_t name_end = stat.rfind(')');
  ProcessState result;
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return result;
  result.state = stat[name_end + 2];
  std::size_t at = name_end + 2;
  for (int field = 3; field < 22; ++field) {
    at = stat.find(' ', at);
    if (at == std::string::npos) return {};
    ++at;
  }
  std::from_chars(stat.data() + at, stat.data() + stat.size(), result.start_time);
  return result;
}

}  // namespace

std::uint64_t start_time_of(std::int64_t pid) {
  return pid > 0 ? read_stat(std::to_string(pid)).start_time : 0;
}

Identity own_identity() {
  Identity identity;
  identity.pid = static_cast<std::int32_t>(getpid());
  identity.uid = geteuid();
  identity.start_time = read_stat("self").start_time;
  identity.pid_namespace = pid_namespace();
  identity.boot = boot_hash();
  identity.name = without_newline(read_file("/proc/self/comm"));
  std::string command = read_file("/proc/self/cmdline");
  while (!command.empty() && command.back() == '\0') command.pop_back();
  std::replace(command.begin(), command.end(), '\0', ' ');
  identity.command_line = command;
  identity.version = KVSHIM_VERSION;
  return identity;
}

bool is_running_here(const Identity& identity) {
  if (identity.pid <= 0 || identity.start_time == 0 || identity.boot == 0 ||
      identity.pid_namespace == 0 || identity.boot != boot_hash() ||
      identity.pid_namespace != pid_namespace()) {
    return false;
  }
  const ProcessState now = read_stat(std::to_string(identity.pid));
  return now.start_time == identity.start_time && now.state != 'Z' && now.state != 'X';
}

}  // namespace kvshim::segment
