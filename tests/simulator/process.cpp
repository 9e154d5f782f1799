#include "tests/simulator/process.h"

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "tests/simulator/faults.h"
#include "tests/simulator/injection.h"
#include "tests/simulator/leaks.h"

namespace kvshim::simulator {
namespace {

std::atomic<CUresult> state{CUDA_ERROR_NOT_INITIALIZED};
std::atomic<bool> forked{false};

void end_process() {
  if (state.load() != CUDA_SUCCESS || forked.load()) return;
  write_trace();
  write_leaks();
  state.store(CUDA_ERROR_DEINITIALIZED);
}

}  // namespace

CUresult process_state() noexcept {
  return forked.load(std::memory_order_relaxed) ? CUDA_ERROR_NOT_INITIALIZED
                                                : state.load(std::memory_order_relaxed);
}

std::size_t configured_memory() noexcept {
  const char* text = std::getenv("KVSHIM_SIM_MEMORY");
  const auto bytes = text == nullptr ? 0 : std::strtoull(text, nullptr, 0);
  return bytes != 0 ? bytes : std::size_t{8} << 30;
}

bool vmm_supported() noexcept {
  const char* text = std::getenv("KVSHIM_SIM_NO_VMM");
  return text == nullptr || std::strcmp(text, "0") == 0;
}

CUresult api::cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (state.load() == CUDA_ERROR_DEINITIALIZED) return CUDA_ERROR_DEINITIALIZED;
  if (forked.load()) return CUDA_ERROR_NOT_INITIALIZED;
  static std::once_flag once;
  std::call_once(once, [] {
    install_fault_handler();
    pthread_atfork(nullptr, nullptr, [] { forked.store(true); });
    std::atexit(end_process);
    state.store(CUDA_SUCCESS);
  });
  return CUDA_SUCCESS;
}

CUresult api::cuDriverGetVersion(int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = 13000;
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
