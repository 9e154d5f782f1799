// A program that is linked against libcuda.so.1, as Triton's launcher and
// llama.cpp are, with another preload in front of the shim or behind it.
#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

namespace {

template <class T>
T* global(const char* name) {
  return static_cast<T*>(dlsym(RTLD_DEFAULT, name));
}

TEST(Neighbour, EveryoneInLineIsCalledOnce) {
  const char* order = std::getenv("KVSHIM_TEST_ORDER");
  if (order == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
  ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFree_v2(0), CUDA_SUCCESS);
  EXPECT_STREQ(*global<const char*>("kvshim_last_hook"), "cuMemFree_v2");
  EXPECT_STREQ(*global<const char*>("fake_last_call"), "cuMemFree_v2");
  // The shim calls the driver itself, so what stands behind it sees nothing; it
  // misses no call of a program whose shim is inactive either way.
  const int calls = *global<int>("neighbour_calls");
  EXPECT_EQ(calls, std::string(order) == "neighbour first" ? 1 : 0);
}

}  // namespace
