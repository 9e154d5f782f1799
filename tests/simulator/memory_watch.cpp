// kvshim_memory_watch: prints how much of the simulated GPU KVSHIM_SIM_GPU is
// in use, from a process of its own.
//
//   kvshim_memory_watch [MILLISECONDS [SECONDS]]   (20, until it is ended)
//
// One line a sample: seconds since the epoch, bytes in use.
#include <cuda.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

int main(int argc, char** argv) {
  const long interval = argc > 1 ? std::atol(argv[1]) : 20;
  const double limit = argc > 2 ? std::atof(argv[2]) : 1e9;
  if (interval <= 0 || limit <= 0 || std::getenv("KVSHIM_SIM_GPU") == nullptr) {
    std::fputs("usage: KVSHIM_SIM_GPU=NAME kvshim_memory_watch [MILLISECONDS [SECONDS]]\n", stderr);
    return 2;
  }
  CUcontext context = nullptr;
  if (cuInit(0) != CUDA_SUCCESS || cuDevicePrimaryCtxRetain(&context, 0) != CUDA_SUCCESS ||
      cuCtxSetCurrent(context) != CUDA_SUCCESS) {
    std::fputs("kvshim_memory_watch: no driver\n", stderr);
    return 1;
  }
  using Clock = std::chrono::system_clock;
  const auto begin = Clock::now();
  for (auto next = begin;; next += std::chrono::milliseconds(interval)) {
    std::this_thread::sleep_until(next);
    const std::chrono::duration<double> running = Clock::now() - begin;
    if (running.count() > limit) return 0;
    std::size_t free_bytes = 0, total = 0;
    if (cuMemGetInfo(&free_bytes, &total) != CUDA_SUCCESS) return 1;
    const std::chrono::duration<double> moment = Clock::now().time_since_epoch();
    std::printf("%.3f %zu\n", moment.count(), total - free_bytes);
    std::fflush(stdout);
  }
}
