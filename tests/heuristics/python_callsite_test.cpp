#include "heuristics/python_callsite.h"

#include <glob.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>

#include "heuristics/own_memory.h"
#include "heuristics/profiles.h"
#include "heuristics/recognizer.h"

namespace kvshim::heuristics {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), &pclose);
  std::string text;
  char buffer[4096];
  std::size_t got = 0;
  while (pipe != nullptr && (got = fread(buffer, 1, sizeof buffer, pipe.get())) != 0) {
    text.append(buffer, got);
  }
  return text;
}

/// Every Python from 3.9 on that this machine has: on PATH and pyenv's.
std::vector<std::string> interpreters() {
  std::vector<std::string> candidates = {"python3", "/usr/bin/python3"};
  for (int minor = 9; minor <= 15; ++minor) {
    candidates.push_back("python3." + std::to_string(minor));
  }
  if (const char* home = std::getenv("HOME")) {
    glob_t found{};
    if (glob((std::string(home) + "/.pyenv/versions/3.*/bin/python3").c_str(), 0, nullptr,
             &found) == 0) {
      candidates.insert(candidates.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
    }
    globfree(&found);
  }
  std::set<std::string> versions;
  std::vector<std::string> working;
  for (const std::string& candidate : candidates) {
    const std::string version =
        output_of(candidate + " -c 'import sys; print(sys.version)' 2>/dev/null");
    const bool known = version.starts_with("3.") && std::atoi(version.c_str() + 2) >= 9;
    if (known && versions.insert(version).second) working.push_back(candidate);
  }
  return working;
}

/// What the recognizer makes of the frames that the probe printed.
Decision decide_on(const std::string& text) {
  AllocationRequest request;
  request.bytes = std::size_t{1} << 30;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("P ")) request.call_site.python.push_back(line.substr(2));
    if (line.starts_with("N ")) request.call_site.native.push_back(line.substr(2));
  }
  const Profiles profiles = Profiles::built_in();
  return Recognizer(profiles, ProcessIdentity{}, Recognizer::Settings{}).decide(request);
}

class PythonCallSite : public ::testing::Test {
 protected:
  PythonCallSite()
      : folder_(std::filesystem::temp_directory_path() /
                ("kvshim-callsite-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_ / "vllm/v1/worker");
  }
  void SetUp() override {
#ifdef KVSHIM_SANITIZED
    GTEST_SKIP() << "a sanitized module can't be loaded into a plain interpreter";
#endif
  }
  ~PythonCallSite() override { std::filesystem::remove_all(folder_); }

  std::string run(const std::string& interpreter, const std::string& script) {
    const std::filesystem::path file = folder_ / "vllm/v1/worker/gpu_model_runner.py";
    std::ofstream(file) << script;
    return output_of("timeout 30 " + interpreter + " " + file.string() +
                     " " CALLSITE_PROBE " 2>&1");
  }
  std::string file() const { return (folder_ / "vllm/v1/worker/gpu_model_runner.py").string(); }

 private:
  std::filesystem::path folder_;
};

constexpr char kScript[] = R"(import ctypes, sys
probe = ctypes.CDLL(sys.argv[1]).kvshim_test_call_site
room = ctypes.create_string_buffer(65536)
def _allocate_kv_cache_tensors():
    x = 1

    probe(room, 65536)
class Runner:
    def initialize_kv_cache(self):
        return [_allocate_kv_cache_tensors()
                for _ in range(1)]
Runner().initialize_kv_cache()
print(room.value.decode())
)";

TEST_F(PythonCallSite, RealInterpretersShowTheirFramesWithoutTheGil) {
  const std::vector<std::string> found = interpreters();
  if (found.empty()) GTEST_SKIP() << "no Python from 3.9 on";
  for (const std::string& interpreter : found) {
    const std::string text = run(interpreter, kScript);
    EXPECT_THAT(text, HasSubstr("P _allocate_kv_cache_tensors " + file() + ":")) << interpreter;
    EXPECT_THAT(text, HasSubstr("P initialize_kv_cache " + file() + ":")) << interpreter;
    EXPECT_THAT(text, HasSubstr("P <module> " + file() + ":")) << interpreter;
    EXPECT_LT(text.find("_allocate_kv_cache_tensors"), text.find("P initialize_kv_cache"))
        << "innermost first";
    const std::string version =
        output_of(interpreter + " -c 'import sys; print(sys.version_info[1])'");
    if (std::atoi(version.c_str()) >= 11) {
      EXPECT_THAT(text, HasSubstr("P _allocate_kv_cache_tensors " + file() + ":7\n"))
          << interpreter << ": the line of the call";
    }
    EXPECT_THAT(text, HasSubstr("N ")) << "native frames too";
    const Decision decision = decide_on(text);
    EXPECT_TRUE(decision.pool) << interpreter << ": " << decision.reason;
    EXPECT_EQ(decision.reason, "vllm: KV cache function at _allocate_kv_cache_tensors " + file());
    std::printf("[ checked  ] %s, 3.%s", interpreter.c_str(), version.c_str());
  }
}

TEST_F(PythonCallSite, NamesBeyondAsciiDoNotBreakTheWalk) {
  for (const std::string& interpreter : interpreters()) {
    const std::string text = run(interpreter, R"(import ctypes, sys
probe = ctypes.CDLL(sys.argv[1]).kvshim_test_call_site
room = ctypes.create_string_buffer(65536)
def größe_kv_cache():
    probe(room, 65536)
def 缓存(): größe_kv_cache()
缓存()
print(room.value.decode())
)");
    EXPECT_THAT(text, HasSubstr("_kv_cache " + file())) << interpreter;
    EXPECT_THAT(text, HasSubstr("P <module> " + file())) << interpreter;
  }
}

TEST_F(PythonCallSite, OtherThreadsAndDeepRecursionAreHandled) {
  for (const std::string& interpreter : interpreters()) {
    const std::string text = run(interpreter, R"(import ctypes, sys, threading
probe = ctypes.CDLL(sys.argv[1]).kvshim_test_call_site
room = ctypes.create_string_buffer(65536)
def down(n):
    if n == 0: probe(room, 65536)
    else: down(n - 1)
stop = threading.Event()
def spin():
    while not stop.is_set(): sum(range(100))
others = [threading.Thread(target=spin) for _ in range(2)]
for t in others: t.start()
for _ in range(20):
    t = threading.Thread(target=down, args=(300,))
    t.start(); t.join()
stop.set()
for t in others: t.join()
print(room.value.decode())
)");
    EXPECT_THAT(text, HasSubstr("P down " + file())) << interpreter;
    EXPECT_THAT(text, ::testing::Not(HasSubstr("P spin"))) << "only the own thread";
  }
}

TEST(PythonFrames, WithoutPythonTheListIsEmptyAndSaysWhy) {
  std::string why;
  EXPECT_THAT(python_frames(&why), IsEmpty());
  EXPECT_EQ(why, "no Python in this process");
}

TEST(PythonFrames, TracebackTextBecomesFrames) {
  EXPECT_THAT(parse_traceback("Stack (most recent call first):\n"
                              "  File \"/a b/c.py\", line 12 in f\n"
                              "  File \"/odd\", line 3.py\", line 4 in <module>\n"
                              "  File \"/no/line\" in g\n"
                              "  ...\n"),
              ElementsAre("f /a b/c.py:12", "<module> /odd\", line 3.py:4"));
  EXPECT_THAT(parse_traceback(""), IsEmpty());
}

TEST(PythonFrames, LocationTablesThatMakeNoSenseGiveTheFirstLine) {
  EXPECT_EQ(line_of_instruction({}, 5, 3), 5);
  EXPECT_EQ(line_of_instruction({0xff, 0xff, 0xff}, 5, 100), 5);
  EXPECT_EQ(line_of_instruction({0xe8}, 5, 0), 5) << "a varint that is cut off";
  EXPECT_EQ(line_of_instruction({0xd8, 0x00, 0x00, 0xe0, 0x01, 0x01}, 5, 1), 8);
}

TEST(OwnMemory, UnmappedMemoryIsAnErrorAndNotACrash) {
  OwnMemory memory;
  std::uint64_t word = 0;
  const std::uint64_t source = 42;
  EXPECT_TRUE(memory.read(reinterpret_cast<std::uint64_t>(&source), &word));
  EXPECT_EQ(word, 42u);
  EXPECT_FALSE(memory.read(0, &word));
  EXPECT_FALSE(memory.read(8, &word));
  EXPECT_FALSE(memory.read(UINT64_MAX - 3, &word));
  void* page = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  EXPECT_FALSE(memory.read(reinterpret_cast<std::uint64_t>(page), &word));
  munmap(page, 4096);
}

__attribute__((noinline)) CallSite captured_in_named_function() { return capture_call_site(); }

TEST(NativeCallSite, NamesTheObjectsOnTheWayAndIsTheSameEachTime) {
  const CallSite first = captured_in_named_function();
  EXPECT_THAT(first.python, IsEmpty());
  ASSERT_GE(first.native.size(), 4u);
  EXPECT_THAT(first.native, ::testing::Contains(HasSubstr("@libc.so.6")));
  EXPECT_THAT(first.native[0], HasSubstr("@heuristics_tests"));
  CallSite again = captured_in_named_function();
  // Only the call in this function (below the captured one) is another.
  const auto differing = std::mismatch(first.native.begin(), first.native.end(),
                                       again.native.begin(), again.native.end());
  ASSERT_NE(differing.first, first.native.end());
  EXPECT_LE(differing.first - first.native.begin(), 2);
  *differing.second = *differing.first;
  EXPECT_EQ(first.native, again.native);
}

}  // namespace
}  // namespace kvshim::heuristics
