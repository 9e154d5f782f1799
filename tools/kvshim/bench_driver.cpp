#include "tools/kvshim/bench_driver.h"

#include <dlfcn.h>

#include "tools/kvshim/outcome.h"

namespace kvshim::cli {
namespace {

// cuda.h renames functions to their newest versions (cuMemAlloc to cuMemAlloc_v2).
#define KVSHIM_BENCH_TEXT(name) #name
#define KVSHIM_BENCH_EXPORTED(name) KVSHIM_BENCH_TEXT(name)

}  // namespace

std::string BenchDriver::name_of(CUresult result) const {
  const char* text = nullptr;
  if (cuGetErrorName != nullptr) cuGetErrorName(result, &text);
  return text != nullptr ? text : "error " + std::to_string(result);
}

void BenchDriver::check(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return;
  throw Failure(Exit::kNoGpu, std::string(what) + ": " + name_of(result) +
                                  (result == CUDA_ERROR_OUT_OF_MEMORY
                                       ? "; the bench needs about 2 GiB of free GPU memory"
                                       : "; kvshim doctor tells more"));
}

BenchDriver load_bench_driver() {
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Failure(Exit::kNoGpu,
                  std::string(reason != nullptr ? reason : "libcuda.so.1 can't be loaded") +
                      "; kvshim doctor tells more");
  }
  BenchDriver driver;
#define KVSHIM_BENCH_FIND(name)                                                               \
  driver.name =                                                                               \
      reinterpret_cast<decltype(driver.name)>(::dlsym(library, KVSHIM_BENCH_EXPORTED(name))); \
  if (driver.name == nullptr) {                                                               \
    throw Failure(Exit::kNoGpu,                                                               \
                  "the driver lacks " KVSHIM_BENCH_EXPORTED(name) "; it is too old");         \
  }
  KVSHIM_BENCH_FUNCTIONS(KVSHIM_BENCH_FIND)
#undef KVSHIM_BENCH_FIND
  return driver;
}

}  // namespace kvshim::cli
