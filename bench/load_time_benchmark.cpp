// What the preload costs a process that never uses CUDA: /bin/true with and
// without it, in turn in one run. Claimed: at most 1 ms at the median.
#include <benchmark/benchmark.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/preloaded_run.h"

namespace {

double run_true(char* const* environment) {
  char program[] = "/bin/true";
  char* arguments[] = {program, nullptr};
  const auto begin = std::chrono::steady_clock::now();
  pid_t child = 0;
  int status = 1;
  if (posix_spawn(&child, program, nullptr, nullptr, arguments, environment) != 0 ||
      waitpid(child, &status, 0) != child || status != 0) {
    std::fprintf(stderr, "%s failed with status %d\n", program, status);
    std::exit(1);
  }
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void load_into_true(benchmark::State& state) {
  std::string preload = "LD_PRELOAD=" + kvshim::bench::library_path();
  char* plain[] = {nullptr};
  char* preloaded[] = {preload.data(), nullptr};
  run_true(plain);
  run_true(preloaded);
  std::vector<double> without, with, added;
  bool first = false;
  for (auto _ : state) {
    double shim = 0;
    if (first) shim = run_true(preloaded);
    const double bare = run_true(plain);
    if (!first) shim = run_true(preloaded);
    first = !first;
    without.push_back(bare);
    with.push_back(shim);
    added.push_back(shim - bare);
    state.SetIterationTime(shim * 1e-6);
  }
  state.counters["without_us"] = median(without);
  state.counters["with_us"] = median(with);
  state.counters["added_us"] = median(added);
}

BENCHMARK(load_into_true)->UseManualTime()->Iterations(500)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
