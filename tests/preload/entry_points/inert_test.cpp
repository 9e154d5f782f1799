// A process that never uses CUDA gets the library and nothing else: no thread, no
// file opened, and the same behaviour. Watched from outside, system call by system
// call.
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace {

struct Observed {
  bool traced = false;
  int exit_status = -1;
  int new_tasks = 0;  // threads and processes
  std::vector<std::string> opened;
};

#if defined(__x86_64__)

std::string string_at(pid_t child, unsigned long address) {
  std::string text;
  while (text.size() < 4096) {
    errno = 0;
    const long word = ptrace(PTRACE_PEEKDATA, child, address + text.size(), nullptr);
    if (errno != 0) break;
    for (std::size_t i = 0; i < sizeof word; ++i) {
      const char letter = static_cast<char>(static_cast<unsigned long>(word) >> (8 * i));
      if (letter == 0) return text;
      text += letter;
    }
  }
  return text;
}

/// Runs the program to its end and notes what it opened and started.
Observed observe(const std::vector<const char*>& command, const std::string& preload) {
  Observed seen;
  const pid_t child = fork();
  if (child == 0) {
    if (preload.empty()) {
      unsetenv("LD_PRELOAD");
    } else {
      setenv("LD_PRELOAD", preload.c_str(), 1);
    }
    std::vector<char*> arguments;
    for (const char* word : command) arguments.push_back(const_cast<char*>(word));
    arguments.push_back(nullptr);
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(99);
    execv(arguments[0], arguments.data());
    _exit(98);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return seen;  // tracing is not allowed here
  seen.traced = true;
  bool entering = true;
  for (;;) {
    ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    if (waitpid(child, &status, 0) < 0) return seen;
    if (WIFEXITED(status)) {
      seen.exit_status = WEXITSTATUS(status);
      return seen;
    }
    if (WIFSIGNALED(status)) return seen;
    user_regs_struct registers = {};
    ptrace(PTRACE_GETREGS, child, nullptr, &registers);
    if (entering) {
      switch (registers.orig_rax) {
        case SYS_openat:
          seen.opened.push_back(string_at(child, registers.rsi));
          break;
        case SYS_open:
          seen.opened.push_back(string_at(child, registers.rdi));
          break;
        case SYS_clone:
        case SYS_clone3:
        case SYS_fork:
        case SYS_vfork:
          ++seen.new_tasks;
          break;
        default:
          break;
      }
    }
    entering = !entering;
  }
}

TEST(Inert, AProcessWithoutCudaGetsNoThreadAndNoFile) {
  const char* library = std::getenv("KVSHIM_TEST_LIBRARY");
  if (library == nullptr) GTEST_SKIP() << "run by ctest";
  const std::vector<const char*> command = {"/bin/true"};
  const Observed plain = observe(command, "");
  if (!plain.traced) GTEST_SKIP() << "tracing is not allowed here";
  const Observed preloaded = observe(command, library);
  EXPECT_EQ(plain.exit_status, 0);
  EXPECT_EQ(preloaded.exit_status, 0);
  EXPECT_EQ(preloaded.new_tasks, 0);
  const std::set<std::string> before(plain.opened.begin(), plain.opened.end());
  std::set<std::string> more;
  for (const std::string& path : preloaded.opened) {
    if (!before.contains(path)) more.insert(path);
  }
  EXPECT_EQ(more.erase(library), 1u) << "the library was not loaded";
  for (const std::string& path : more) {
    // What glibc itself consists of is needed by the library.
    const bool of_glibc = path.find("/libm.so") != std::string::npos ||
                          path.find("/libdl.so") != std::string::npos ||
                          path.find("/libpthread.so") != std::string::npos;
    EXPECT_TRUE(of_glibc) << "opened " << path;
  }
}

TEST(Inert, ExitCodesAndForksPassThrough) {
  const char* library = std::getenv("KVSHIM_TEST_LIBRARY");
  if (library == nullptr) GTEST_SKIP() << "run by ctest";
  setenv("LD_PRELOAD", library, 1);
  // A shell that forks and execs; status 7 comes from the innermost.
  const int status = std::system("/bin/sh -c '(exit 7)'");
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  unsetenv("LD_PRELOAD");
}

#endif

}  // namespace
