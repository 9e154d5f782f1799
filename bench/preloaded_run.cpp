#include "bench/preloaded_run.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

extern char** environ;

namespace kvshim::bench {
namespace {

namespace fs = std::filesystem;

constexpr const char* kChildMark = "KVSHIM_BENCH_CHILD";
constexpr const char* kFolder = "KVSHIM_BENCH_FOLDER";
constexpr const char* kFolderOwner = "KVSHIM_BENCH_FOLDER_OWNER";  // a process id, kept by execve

fs::path own_path() { return fs::read_symlink("/proc/self/exe"); }

bool starts_with(const char* text, const char* start) {
  return std::strncmp(text, start, std::strlen(start)) == 0;
}

/// This process's environment without the shim, and `more`.
std::vector<std::string> changed_environment(const Environment& more, bool plain) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const bool ours = starts_with(*entry, "KVSHIM_") && !starts_with(*entry, "KVSHIM_SIM_");
    if (!ours && !starts_with(*entry, "LD_PRELOAD=")) result.emplace_back(*entry);
  }
  result.push_back(std::string(kChildMark) + "=1");
  result.push_back(std::string(kFolder) + "=" + work_folder());
  result.push_back(std::string(kFolderOwner) + "=" + std::to_string(getpid()));
  if (plain) return result;
  for (const auto& [name, value] : more) result.push_back(name + "=" + value);
  result.push_back("LD_PRELOAD=" + library_path());
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

std::string library_path() {
  if (const char* named = std::getenv("KVSHIM_LIBRARY"); named != nullptr && *named != '\0') {
    return named;
  }
  const fs::path folder = own_path().parent_path();
  for (const char* place : {"../preload/libkvshim.so", "../lib/libkvshim.so", "libkvshim.so"}) {
    const fs::path candidate = (folder / place).lexically_normal();
    if (fs::is_regular_file(candidate)) return candidate.string();
  }
  std::fprintf(stderr, "no libkvshim.so beside %s: set KVSHIM_LIBRARY\n", folder.c_str());
  std::exit(2);
}

bool is_preloaded_child() { return std::getenv(kChildMark) != nullptr; }

const std::string& work_folder() {
  static const std::string* const folder = [] {
    auto* path = new std::string();
    const char* given = std::getenv(kFolder);
    const char* owner = std::getenv(kFolderOwner);
    if (given != nullptr) {
      *path = given;
    } else {
      *path = (fs::temp_directory_path() / "kvshim.bench.XXXXXX").string();
      if (mkdtemp(path->data()) == nullptr) {
        std::perror("mkdtemp");
        std::exit(2);
      }
    }
    if (given == nullptr || (owner != nullptr && std::to_string(getpid()) == owner)) {
      std::atexit([] {
        std::error_code ignored;
        fs::remove_all(work_folder(), ignored);
      });
    }
    return path;
  }();
  return *folder;
}

Environment shim_environment(const std::string& name, const std::string& options) {
  const std::string base = work_folder() + "/" + name;
  std::ofstream(base + ".toml") << "min_size = \"16MiB\"\nlog_file = \"" << base
                                << ".log\"\nstatus_dir = \"" << work_folder() << "\"\n"
                                << options
                                << "\n[[rules]]\naction = \"allow\"\nmin_size = \"16MiB\"\n"
                                   "role = \"bench\"\n";
  return {{"KVSHIM_CONFIG", base + ".toml"}};
}

std::string run_again(const std::vector<std::string>& arguments, const Environment& environment,
                      bool plain) {
  std::vector<std::string> words{own_path().string()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> settings = changed_environment(environment, plain);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child = 0;
  const int failed = posix_spawn(&child, words[0].c_str(), &actions, nullptr,
                                 pointers(words).data(), pointers(settings).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string output;
  if (failed == 0) {
    char piece[4096];
    for (ssize_t got = 0; (got = read(ends[0], piece, sizeof piece)) > 0;) {
      output.append(piece, static_cast<std::size_t>(got));
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) {
      std::fprintf(stderr, "%s ended with status %d\n", words.back().c_str(), status);
      output.clear();
    }
  }
  close(ends[0]);
  return output;
}

void become_preloaded(char** arguments, const Environment& environment) {
  std::vector<std::string> settings = changed_environment(environment, false);
  execve("/proc/self/exe", arguments, pointers(settings).data());
  std::perror("execve");
  std::exit(2);
}

}  // namespace kvshim::bench
