#include "bench/occupied_gpu.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "bench/device_work.h"
#include "bench/mapping_calls.h"

extern "C" const char kvshim_ptx_bench_kernels[];
extern "C" __attribute__((weak)) void kvshim_simulator_add_kernel(const char* name,
                                                                  void (*call)(void* const*));

namespace kvshim::bench {
namespace {

constexpr std::string_view kOption = "--occupy=";

using Words = std::atomic_ref<unsigned>;

void occupy_on_host(void* const* parameters) {
  auto* words = *static_cast<unsigned* const*>(parameters[0]);
  Words(words[1]).store(1);
  while (Words(words[0]).load() == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
}

/// Ends the process: with 0 when its input has ended.
[[noreturn]] void occupy(std::string_view how) {
  const MappingDevice on;
  CUmodule module = load_bench_kernels();
  CUfunction nothing = nullptr, occupying = nullptr;
  KVSHIM_BENCH_CHECK(cuModuleGetFunction(&nothing, module, "kvshim_bench_nothing"));
  KVSHIM_BENCH_CHECK(cuModuleGetFunction(&occupying, module, "kvshim_bench_occupy"));
  CUstream stream = nullptr;
  KVSHIM_BENCH_CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  void* pinned = nullptr;
  KVSHIM_BENCH_CHECK(cuMemHostAlloc(&pinned, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
  std::memset(pinned, 0, 4096);
  auto* const words = static_cast<unsigned*>(pinned);
  CUdeviceptr address = 0;
  KVSHIM_BENCH_CHECK(cuMemHostGetDevicePointer(&address, pinned, 0));
  if (how == "waiting stream") {
    KVSHIM_BENCH_CHECK(cuStreamWaitValue32(stream, address, 1, CU_STREAM_WAIT_VALUE_EQ));
    KVSHIM_BENCH_CHECK(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr));
  } else {
    int sleeps = how == "sleeping kernel" ? 1 : 0;
    void* parameters[] = {&address, &sleeps};
    KVSHIM_BENCH_CHECK(
        cuLaunchKernel(occupying, 1, 1, 1, 32, 1, 1, 0, stream, parameters, nullptr));
    while (Words(words[1]).load() == 0) std::this_thread::yield();
  }
  std::puts("ready");
  std::fflush(stdout);
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) continue;
  Words(words[0]).store(1);
  cuStreamSynchronize(stream);
  std::_Exit(0);
}

}  // namespace

CUmodule load_bench_kernels() {
  if (kvshim_simulator_add_kernel != nullptr) {
    kvshim_simulator_add_kernel("kvshim_bench_nothing", [](void* const*) {});
    kvshim_simulator_add_kernel("kvshim_bench_occupy", &occupy_on_host);
  }
  CUmodule module = nullptr;
  KVSHIM_BENCH_CHECK(cuModuleLoadData(&module, kvshim_ptx_bench_kernels));
  return module;
}

OccupiedGpu::OccupiedGpu(const Occupation& how) {
  if (std::string_view(how.name) == "nothing") return;
  int in[2], out[2];
  if (pipe(in) != 0 || pipe(out) != 0) std::exit(1);
  const std::string option = std::string(kOption) + how.name;
  child_ = fork();
  if (child_ == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    for (const int end : {in[0], in[1], out[0], out[1]}) close(end);
    execl("/proc/self/exe", "kvshim_bench_time_slices", option.c_str(),
          static_cast<char*>(nullptr));
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  its_input_ = in[1];
  char word[8] = "";
  const bool ready = read(out[0], word, sizeof word) > 0;
  close(out[0]);
  if (!ready) {
    std::fprintf(stderr, "%s: the other process did not start\n", how.name);
    std::exit(1);
  }
}

OccupiedGpu::~OccupiedGpu() {
  if (child_ <= 0) return;
  close(its_input_);
  waitpid(child_, nullptr, 0);
}

void occupy_if_asked(int count, char** arguments) {
  if (count != 2) return;
  const std::string_view option = arguments[1];
  if (option.starts_with(kOption)) occupy(option.substr(kOption.size()));
}

}  // namespace kvshim::bench
