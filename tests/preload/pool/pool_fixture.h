// A pool and an ordinary allocation side by side, under a preloaded libkvshim.so.
// Names are exact export names (see preload/real_driver.h).
#pragma once

#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "tests/preload/context_fixture.h"

namespace kvshim::preload {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kPlainBytes = 12 * kMiB;
inline constexpr std::size_t kPoolBytes = 64 * kMiB;

class PoolTest : public ContextTest {
 protected:
  void SetUp() override {
    ContextTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuMemAlloc_v2(&plain_, kPlainBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemAlloc_v2(&pool_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8_v2(plain_, 0, kPlainBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    ASSERT_TRUE(lives(pool_)) << "no pool was made";
  }

  void TearDown() override {
    if (context_ == nullptr) return;
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(pool_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemFree_v2(plain_), CUDA_SUCCESS);
    ContextTest::TearDown();
  }

  /// Whether there is a pool at the address. (Pools are counted apart: hooks_query.cpp.)
  static bool lives(CUdeviceptr pool) {
    unsigned long long id = 0;
    return cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pool) == CUDA_SUCCESS &&
           id >= 1ull << 48;
  }
  static bool soon(const auto& condition,
                   std::chrono::milliseconds patience = std::chrono::seconds(20)) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  /// A host function: its stream stands until the flag, an atomic<bool>, is set.
  static void until_open(void* flag) {
    while (!static_cast<std::atomic<bool>*>(flag)->load()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  /// The module of `code`. Of its kernels the simulator runs `call` in the place of `name`.
  static CUmodule load(const char* code, const char* name, void (*call)(void* const*)) {
    const auto add_kernel = reinterpret_cast<void (*)(const char*, void (*)(void* const*))>(
        dlsym(RTLD_DEFAULT, "kvshim_simulator_add_kernel"));
    if (add_kernel != nullptr) add_kernel(name, call);
    CUmodule module = nullptr;
    EXPECT_EQ(cuModuleLoadData(&module, code), CUDA_SUCCESS);
    return module;
  }
  static CUfunction kernel(CUmodule module, const char* name) {
    CUfunction function = nullptr;
    EXPECT_EQ(cuModuleGetFunction(&function, module, name), CUDA_SUCCESS);
    return function;
  }
  static bool simulated() { return dlsym(RTLD_DEFAULT, "kvshim_simulator_add_kernel") != nullptr; }
  static std::vector<std::uint8_t> contents(CUdeviceptr memory, std::size_t bytes) {
    std::vector<std::uint8_t> host(bytes, 0xee);
    EXPECT_EQ(cuMemcpyDtoH_v2(host.data(), memory, bytes), CUDA_SUCCESS);
    return host;
  }

  CUdeviceptr plain_ = 0;
  CUdeviceptr pool_ = 0;
};

}  // namespace kvshim::preload
