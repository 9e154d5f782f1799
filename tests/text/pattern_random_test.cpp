// What is accepted is cheap: random expressions, compiled under limits of time, memory and stack.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <string_view>

#include "text/pattern.h"
#include "text/pattern_cost.h"

namespace kvshim::text {
namespace {

#if !defined(KVSHIM_SANITIZED)  // they take address space and stack of their own

constexpr rlim_t kMostMemory = rlim_t{256} << 20;
constexpr rlim_t kMostSeconds = 10;  // for all of one seed
constexpr std::size_t kSmallStack = std::size_t{256} << 10;
constexpr int kExpressions = 400;

// Well formed for the most part: regcomp gives up on the others before they cost anything.
std::string random_expression(std::mt19937& random, int depth) {
  constexpr std::array<std::string_view, 8> kAtoms = {"a", "b", "a", "^", "$", "\\b", "\\B", "9"};
  constexpr std::array<std::string_view, 12> kRepetitions = {
      "*", "+", "?", "?", "+", "{2}", "{1,3}", "{0,9}", "{16}", "{2,}", "{30}", "{9"};
  std::string expression;
  for (auto left = 1 + random() % 4; left > 0; --left) {
    const bool group = depth > 0 && random() % 2 == 0;
    const std::string_view atom = kAtoms[random() % kAtoms.size()];
    expression += group ? "(" + random_expression(random, depth - 1) + ")" : std::string(atom);
    const bool anchor = !group && (atom == "^" || atom == "$" || atom[0] == '\\');
    if (!anchor && random() % 2 == 0) expression += kRepetitions[random() % kRepetitions.size()];
    if (left > 1 && random() % 3 == 0) expression += '|';
  }
  return expression;
}

double seconds_of_this_thread() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void* compile_some(void* seed) {
  std::mt19937 random(*static_cast<const unsigned*>(seed));
  for (int accepted = 0; accepted < kExpressions;) {
    const std::string expression = random_expression(random, 1 + accepted % 5);
    if (!excess_in(expression).empty()) continue;
    ++accepted;
    std::fprintf(stderr, "%s\n", expression.c_str());  // shown if it ends the process
    const double begin = seconds_of_this_thread();
    std::string complaint;
    Pattern::compile(expression, &complaint);
    if (complaint.find("Memory exhausted") != std::string::npos) _exit(2);
    if (seconds_of_this_thread() - begin > 0.5) _exit(3);
  }
  return nullptr;
}

[[noreturn]] void compile_under_limits(unsigned seed) {
  const rlimit memory{kMostMemory, kMostMemory};
  const rlimit time{kMostSeconds, kMostSeconds};
  // A thread's own arena reserves address space that it doesn't use.
  if (mallopt(M_ARENA_MAX, 1) != 1 || setrlimit(RLIMIT_AS, &memory) != 0 ||
      setrlimit(RLIMIT_CPU, &time) != 0) {
    _exit(4);
  }
  pthread_attr_t attributes;
  pthread_t thread{};
  pthread_attr_init(&attributes);
  if (pthread_attr_setstacksize(&attributes, kSmallStack) != 0 ||
      pthread_create(&thread, &attributes, compile_some, &seed) != 0) {
    _exit(5);
  }
  pthread_join(thread, nullptr);
  _exit(0);
}

TEST(PatternRandomTest, WhatIsAcceptedIsCheap) {
  for (const unsigned seed : {1U, 2U, 3U}) {
    EXPECT_EXIT(compile_under_limits(seed), testing::ExitedWithCode(0), "") << seed;
  }
}

#endif

}  // namespace
}  // namespace kvshim::text
