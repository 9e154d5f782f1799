// What a launch pays that reaches no pool: the way from the exported function's
// hook to the real one, with 16 pointer parameters, against calling the real one
// alone. Claimed: at most 60 ns at the median, and no sharing between threads.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>

#include "preload/function_info.h"
#include "preload/hooks.h"
#include "tests/preload/launch/fake_driver.h"
#include "tests/preload/launch/fake_gate.h"

namespace kvshim::preload {
namespace {

constexpr std::size_t kPointers = 16;
constexpr std::size_t kFunctions = 64;  // an engine's step launches some dozens in turn

CUresult real_launch(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     unsigned, CUstream, void** params, void**) {
  benchmark::DoNotOptimize(params);
  return CUDA_SUCCESS;
}

CUfunction function(std::size_t i) {
  return reinterpret_cast<CUfunction>(0x7f1234000000 + i * 0x2c0);
}

void prepare(bool with_pool) {
  testing::reset_driver();
  testing::reset_gate(with_pool);
  forget_functions();
  for (std::size_t i = 0; i < kFunctions; ++i) {
    testing::driver().add_function(reinterpret_cast<std::uintptr_t>(function(i)),
                                   "_Z1kPfS_S_S_S_S_S_S_S_S_S_S_S_S_S_S_",
                                   std::vector<std::size_t>(kPointers, 8));
    find_function(function(i));
  }
  testing::driver_table().cuLaunchKernel = real_launch;
}

struct Parameters {
  std::array<std::uint64_t, kPointers> values;
  std::array<void*, kPointers> pointers;
  Parameters() {
    for (std::size_t i = 0; i < kPointers; ++i) {
      values[i] = 0x7f0000000000 + i * 0x1000;
      pointers[i] = &values[i];
    }
  }
};

template <class Launch>
void loop(benchmark::State& state, Launch&& launch) {
  Parameters parameters;
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(launch(function(i++ % kFunctions), parameters.pointers.data()));
  }
}

void RealAlone(benchmark::State& state) {
  loop(state, [](CUfunction f, void** params) {
    return real().cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr);
  });
}

void HookWithoutPool(benchmark::State& state) {
  loop(state, [](CUfunction f, void** params) {
    return hook_cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr);
  });
}

void HookWithPool(benchmark::State& state) { HookWithoutPool(state); }

BENCHMARK(RealAlone)->Setup([](const benchmark::State&) { prepare(true); });
BENCHMARK(HookWithoutPool)->Setup([](const benchmark::State&) { prepare(false); });
BENCHMARK(HookWithPool)->Setup([](const benchmark::State&) { prepare(true); })->ThreadRange(1, 4);

}  // namespace
}  // namespace kvshim::preload

BENCHMARK_MAIN();
