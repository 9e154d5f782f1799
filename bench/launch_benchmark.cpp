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
// And, without a claim, what else a decode step does once or some times: "copied",
// 64 KiB of pinned memory to the device (they are searched for addresses of pools);
// "graph", the launch of a graph that reads 24 pools.
#include <benchmark/benchmark.h>
#include <cuda.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

constexpr std::size_t kPools = 24, kCopied = 64 << 10;

Launch real_launch = nullptr;
Launch hooked_launch = nullptr;
decltype(&cuMemcpyHtoDAsync) real_copy = nullptr;
decltype(&cuGraphLaunch) real_graph_launch = nullptr;
CUcontext context = nullptr;
CUfunction kernel = nullptr;
std::array<CUdeviceptr, kPools> pools;
CUdeviceptr small = 0;
void* pinned = nullptr;

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
  for (CUdeviceptr& pool : pools) CHECK(cuMemAlloc(&pool, kPool));
  CHECK(cuMemAlloc(&small, kCopied));
  CHECK(cuMemHostAlloc(&pinned, kCopied, 0));
  std::memset(pinned, 1, kCopied);
  hooked_launch = &cuLaunchKernel;
  real_launch = reinterpret_cast<Launch>(loaded_symbol("libcuda.so", "cuLaunchKernel"));
  real_copy =
      reinterpret_cast<decltype(real_copy)>(loaded_symbol("libcuda.so", "cuMemcpyHtoDAsync_v2"));
  real_graph_launch =
      reinterpret_cast<decltype(real_graph_launch)>(loaded_symbol("libcuda.so", "cuGraphLaunch"));
  if (real_launch == nullptr || real_launch == hooked_launch || real_copy == nullptr ||
      real_graph_launch == nullptr) {
    std::fprintf(stderr, "the driver's own functions were not found, or no shim is loaded\n");
    std::exit(1);
  }
}

/// Nanoseconds of one call, the clock's own time included.
template <class Call>
double one(Call&& call) {
  const auto begin = Clock::now();
  benchmark::DoNotOptimize(call());
  const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
  return took.count();
}

double median(std::vector<double>& values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Times the two calls in turn; `settle` comes after each batch.
template <class Hooked, class Real, class Settle>
void compare(benchmark::State& state, Hooked&& hooked, Real&& real, Settle&& settle) {
  for (int i = 0; i < kBatch; ++i) one(hooked);
  settle();
  std::vector<double> without, with;
  std::minstd_rand order(static_cast<unsigned>(state.thread_index()) + 1);
  for (auto _ : state) {
    double sum = 0;
    for (int i = 0; i < kBatch; ++i) {
      const bool hook_first = (order() & 64u) != 0;
      if (hook_first) with.push_back(one(hooked));
      without.push_back(one(real));
      if (!hook_first) with.push_back(one(hooked));
      sum += with.back();
    }
    settle();  // never a full queue
    state.SetIterationTime(sum * 1e-9);
  }
  const double plain = median(without), hooked_median = median(with);
  state.counters["without_ns"] = benchmark::Counter(plain, benchmark::Counter::kAvgThreads);
  state.counters["with_ns"] = benchmark::Counter(hooked_median, benchmark::Counter::kAvgThreads);
  state.counters["added_ns"] =
      benchmark::Counter(hooked_median - plain, benchmark::Counter::kAvgThreads);
}

class Stream {
 public:
  Stream() {
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
  }
  ~Stream() { CHECK(cuStreamDestroy(stream_)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator CUstream() const { return stream_; }  // NOLINT(google-explicit-constructor)

 private:
  CUstream stream_ = nullptr;
};

void launch_without_pool(benchmark::State& state, unsigned grid) {
  const Stream stream;
  std::array<CUdeviceptr, 16> values;
  std::array<void*, 16> parameters;
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = small + 64 * i;
    parameters[i] = &values[i];
  }
  const auto call = [&](Launch launch) {
    return launch(kernel, grid, 1, 1, 1, 1, 1, 0, stream, parameters.data(), nullptr);
  };
  compare(
      state, [&] { return call(hooked_launch); }, [&] { return call(real_launch); },
      [&] {
        if (grid != 0) cuStreamSynchronize(stream);
      });
}

void copied(benchmark::State& state) {
  const Stream stream;
  compare(
      state, [&] { return cuMemcpyHtoDAsync(small, pinned, kCopied, stream); },
      [&] { return real_copy(small, pinned, kCopied, stream); },
      [&] { cuStreamSynchronize(stream); });
}

void graph(benchmark::State& state) {
  const Stream stream;
  CUgraph made = nullptr;
  CUgraphExec exec = nullptr;
  CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  for (const CUdeviceptr pool : pools) CHECK(cuMemcpyDtoDAsync(small, pool, 64, stream));
  CHECK(cuStreamEndCapture(stream, &made));
  CHECK(cuGraphInstantiate(&exec, made, 0));
  // Past the shim, too: nothing is released so soon, and only reads absent pages.
  compare(
      state, [&] { return cuGraphLaunch(exec, stream); },
      [&] { return real_graph_launch(exec, stream); }, [&] { cuStreamSynchronize(stream); });
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(made));
}

void refused(benchmark::State& state) { launch_without_pool(state, 0); }
void submitted(benchmark::State& state) { launch_without_pool(state, 1); }

BENCHMARK(refused)->UseManualTime()->Iterations(3000)->ThreadRange(1, 8);
BENCHMARK(submitted)->UseManualTime()->Iterations(1000)->ThreadRange(1, 4);
BENCHMARK(copied)->UseManualTime()->Iterations(100);
BENCHMARK(graph)->UseManualTime()->Iterations(50);

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
