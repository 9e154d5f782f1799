// A process that may start no more threads (a limit of its control group): the shim
// steps aside, and the engine runs as without it.
#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace {
std::atomic<int> threads_left{1 << 20};
}  // namespace

/// Instead of the C library's: refuses what the shim asks for, when there are no more.
extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* how,
                                                                     void* (*body)(void*),
                                                                     void* argument) noexcept {
  Dl_info caller{};
  if (dladdr(__builtin_return_address(0), &caller) != 0 && caller.dli_fname != nullptr &&
      std::strstr(caller.dli_fname, "libkvshim") != nullptr && threads_left.fetch_sub(1) <= 0) {
    return EAGAIN;
  }
  static const auto real =
      reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return real(thread, how, body, argument);
}

namespace kvshim::preload {
namespace {

TEST(NoThreadsTest, AnAllocationStaysPlainWhenTheThreadsOfItsGpuCannotStart) {
  if (std::getenv("KVSHIM_CONFIG") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
  ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
  CUcontext context = nullptr;
  ASSERT_EQ(cuDevicePrimaryCtxRetain(&context, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSetCurrent(context), CUDA_SUCCESS);
  threads_left.store(2);  // of the three that a GPU with pools has
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  for (int i = 0; i < 3; ++i) {
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAlloc_v2(&memory, kBytes), CUDA_SUCCESS);
    unsigned long long id = 0;
    ASSERT_EQ(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, memory), CUDA_SUCCESS);
    EXPECT_LT(id, 1ull << 48) << "a pool without its threads";
    EXPECT_EQ(cuMemsetD8_v2(memory, 7, kBytes), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(memory), CUDA_SUCCESS);
  }
  EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
