#include "tests/kvwrap/running.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace kvshim::kvwrap {
namespace {

std::string read_all(int from) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(from, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(from);
  return text;
}

}  // namespace

int Outcome::code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status); }

Outcome run_program(const std::vector<std::string>& arguments, const Extra& extra) {
  Extra environment{{"PATH", "/usr/local/bin:/usr/bin:/bin"},
                    {"KVSHIM_CONFIG", "/dev/null"},
                    {"KVSHIM_LIBRARY", GOOD_LIBRARY}};
  if (const char* options = std::getenv("ASAN_OPTIONS")) environment["ASAN_OPTIONS"] = options;
  for (const auto& [name, value] : extra) environment[name] = value;
  std::vector<std::string> entries;
  for (const auto& [name, value] : environment) entries.push_back(name + "=" + value);
  std::vector<char*> envp;
  for (std::string& entry : entries) envp.push_back(entry.data());
  envp.push_back(nullptr);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  int out[2];
  int err[2];
  EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(err, O_CLOEXEC), 0);
  Outcome outcome;
  outcome.process = ::fork();
  if (outcome.process == 0) {
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    ::execve(argv[0], argv.data(), envp.data());
    ::_exit(99);
  }
  ::close(out[1]);
  ::close(err[1]);
  std::thread errors([&] { outcome.errors = read_all(err[0]); });
  outcome.output = read_all(out[0]);
  errors.join();
  ::waitpid(outcome.process, &outcome.status, 0);
  return outcome;
}

Outcome run_kvwrap(std::vector<std::string> arguments, const Extra& extra) {
  arguments.insert(arguments.begin(), KVWRAP);
  return run_program(arguments, extra);
}

TemporaryFolder::TemporaryFolder(const std::string& name) {
  std::string pattern = "/tmp/" + name + "-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

std::string TemporaryFolder::write(const std::string& name, const std::string& text) const {
  std::string path = path_ + "/" + name;
  std::ofstream(path) << text;
  return path;
}

}  // namespace kvshim::kvwrap
