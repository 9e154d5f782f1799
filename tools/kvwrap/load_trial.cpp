#include "tools/kvwrap/load_trial.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace kvshim::kvwrap {
namespace {

constexpr std::chrono::seconds kLongest{10};

/// All that the child writes until it ends; false when that takes too long.
bool read_to_end(int from, std::string* text) {
  const auto deadline = std::chrono::steady_clock::now() + kLongest;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd request{from, POLLIN, 0};
    const int ready =
        ::poll(&request, 1, static_cast<int>(std::max<std::int64_t>(0, left.count())));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    std::array<char, 1024> buffer{};
    const ssize_t count = ::read(from, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return true;
    text->append(buffer.data(), static_cast<std::size_t>(count));
  }
}

/// The line without what the loader puts in front of its reason.
std::string without_lead(std::string line, const std::string& self) {
  for (const std::string& lead :
       {self + ": ", std::string("error while loading shared libraries: "),
        std::string("ERROR: ld.so: ")}) {
    if (line.starts_with(lead)) line.erase(0, lead.size());
  }
  return line;
}

/// The line of the loader's output that is about the library, or the first.
std::string reason_in(const std::string& output, const std::string& library,
                      const std::string& self) {
  std::string first;
  std::size_t start = 0;
  while (start < output.size()) {
    const std::size_t end = std::min(output.find('\n', start), output.size());
    std::string line = without_lead(output.substr(start, end - start), self);
    if (line.find(library) != std::string::npos) return line;
    if (first.empty()) first = line;
    start = end + 1;
  }
  return first;
}

[[noreturn]] void run_child(const std::string& self, const std::string& library, int output) {
  const int null = ::open("/dev/null", O_RDWR);
  ::dup2(null, STDIN_FILENO);
  ::dup2(null, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  const char* const arguments[] = {self.c_str(), kLoadedArgument, library.c_str(), nullptr};
  ::execv(self.c_str(), const_cast<char* const*>(arguments));
  ::_exit(125);
}

}  // namespace

bool is_loaded(const std::string& library) {
  return ::dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD) != nullptr;
}

std::string try_load(const std::string& self, const std::string& library) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return std::string("pipe: ") + std::strerror(errno);
  const pid_t child = ::fork();
  if (child < 0) {
    std::string reason = std::string("fork: ") + std::strerror(errno);
    ::close(ends[0]);
    ::close(ends[1]);
    return reason;
  }
  if (child == 0) run_child(self, library, ends[1]);
  ::close(ends[1]);
  std::string output;
  const bool ended = read_to_end(ends[0], &output);
  ::close(ends[0]);
  if (!ended) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!ended) return "a program with it did not start within 10 seconds";
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  std::string reason = reason_in(output, library, self);
  if (!reason.empty()) return reason;
  if (WIFSIGNALED(status)) {
    return std::string("a program with it ends with the signal ") + strsignal(WTERMSIG(status));
  }
  return "the loader left it out without a word";
}

}  // namespace kvshim::kvwrap
