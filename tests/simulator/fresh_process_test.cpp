#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {

int in_fresh_process(const std::string& test,
                     const std::vector<std::pair<std::string, std::string>>& environment) {
  const std::string filter = "--gtest_filter=" + test;
  const pid_t child = fork();
  if (child == 0) {
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    execl("/proc/self/exe", "test", filter.c_str(), "--gtest_also_run_disabled_tests",
          "--gtest_brief=1", static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace kvshim::simulator
