// What the shim adds to a launch that reaches no pool, in a process that has a
// pool: the exported hook against the driver's own function, 16 pointer
// parameters. Each launch is timed by itself, the two in turn in random order, so
// that neither drifts nor a full queue meets one more often than the other; what is
// compared are the medians of single launches. Claimed: at most 60 ns, and threads
// don't slow each other down by it.
//
// "refused": the driver refuses the launch (a grid of nothing) after the hook
// has looked at all parameters, so that what is measured is the host side alone.
// "submitted": the kernel runs; its queue makes the figures noisier.
#include <benchmark/benchmark.h>
#include <cuda.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "bench/loaded_symbol.h"
#include "bench/preloaded_run.h"

extern "C" const char kvshim_ptx_bench_kernels[];
extern "C" __attribute__((weak)) void kvshim_simulator_add_kernel(const char* name,
                                                                  void (*call)(void* const*));

namespace kvshim::bench {
namespace {

using Launch = decltype(&cuLaunchKernel);
using Clock = std::chrono::steady_clock;

constexpr int kBatch = 64;
constexpr std::size_t kPool = std::size_t{64} << 20;

Launch real_launch = nullptr;
Launch hooked_launch = nullptr;
CUcontext context = nullptr;
CUfunction kernel = nullptr;
CUdeviceptr pool = 0, small = 0;

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = "?";
  cuGetErrorName(result, &name);
  std::fprintf(stderr, "%s: %s\n", call, name);
  std::exit(1);
}
#define CHECK(call) check(call, #call)

void prepare() {
  CHECK(cuInit(0));
  CHECK(cuDevicePrimaryCtxRetain(&context, 0));
  CHECK(cuCtxSetCurrent(context));
  if (kvshim_simulator_add_kernel != nullptr) {
    kvshim_simulator_add_kernel("kvshim_bench_sixteen", [](void* const*) {});
  }
  CUmodule module = nullptr;
  CHECK(cuModuleLoadData(&module, kvshim_ptx_bench_kernels));
  CHECK(cuModuleGetFunction(&kernel, module, "kvshim_bench_sixteen"));
  CHECK(cuMemAlloc(&pool, kPool));
  CHECK(cuMemAlloc(&small, 4096));
  hooked_launch = &cuLaunchKernel;
  real_launch = reinterpret_cast<Launch>(loaded_symbol("libcuda.so", "cuLaunchKernel"));
  if (real_launch == nullptr || real_launch == hooked_launch) {
    std::fprintf(stderr, "the driver's own cuLaunchKernel was not found, or no shim is loaded\n");
    std::exit(1);
  }
}

/// Nanoseconds of one launch, the clock's own time included.
double one(Launch launch, CUstream stream, unsigned grid) {
  std::array<CUdeviceptr, 16> values;
  std::array<void*, 16> parameters;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = small + 64 * i;
    parameters[i] = &values[i];
  }
  const auto begin = Clock::now();
  benchmark::DoNotOptimize(
      launch(kernel, grid, 1, 1, 1, 1, 1, 0, stream, parameters.data(), nullptr));
  const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
  return took.count();
}

double median(std::vector<double>& values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void launch_without_pool(benchmark::State& state, unsigned grid) {
  CHECK(cuCtxSetCurrent(context));
  CUstream stream = nullptr;
  CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (int i = 0; i < kBatch; ++i) one(hooked_launch, stream, 1);
  std::vector<double> without, with;
  std::minstd_rand order(static_cast<unsigned>(state.thread_index()) + 1);
  for (auto _ : state) {
    double sum = 0;
    for (int i = 0; i < kBatch; ++i) {
      const bool hook_first = (order() & 64u) != 0;
      if (hook_first) with.push_back(one(hooked_launch, stream, grid));
      without.push_back(one(real_launch, stream, grid));
      if (!hook_first) with.push_back(one(hooked_launch, stream, grid));
      sum += with.back();
    }
    if (grid != 0) cuStreamSynchronize(stream);  // never a full queue
    state.SetIterationTime(sum * 1e-9);
  }
  CHECK(cuStreamDestroy(stream));
  const double plain = median(without), hooked = median(with);
  state.counters["without_ns"] = benchmark::Counter(plain, benchmark::Counter::kAvgThreads);
  state.counters["with_ns"] = benchmark::Counter(hooked, benchmark::Counter::kAvgThreads);
  state.counters["added_ns"] = benchmark::Counter(hooked - plain, benchmark::Counter::kAvgThreads);
}

void refused(benchmark::State& state) { launch_without_pool(state, 0); }
void submitted(benchmark::State& state) { launch_without_pool(state, 1); }

BENCHMARK(refused)->UseManualTime()->Iterations(3000)->ThreadRange(1, 8);
BENCHMARK(submitted)->UseManualTime()->Iterations(1000)->ThreadRange(1, 4);

}  // namespace
}  // namespace kvshim::bench

int main(int argc, char** argv) {
  using namespace kvshim::bench;
  if (!is_preloaded_child()) become_preloaded(argv, shim_environment("launch", ""));
  work_folder();  // ours to remove at the end
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  prepare();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
