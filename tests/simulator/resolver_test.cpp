// cuGetProcAddress as measured (semantics_probe; libcudart's look-ups).
#include <dlfcn.h>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

struct Answer {
  CUresult result = CUDA_SUCCESS;
  void* address = nullptr;
  CUdriverProcAddressQueryResult status{};
};

Answer ask(const char* name, int version, cuuint64_t flags = 0) {
  Answer answer;
  answer.result = cuGetProcAddress_v2(name, &answer.address, version, flags, &answer.status);
  return answer;
}

void* exported(const char* name) {
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  return dlsym(library, name);
}

class ResolverTest : public GpuTest {};

TEST_F(ResolverTest, AnswersWithTheExportedAddress) {
  EXPECT_EQ(exported("cuMemAlloc_v2"), ask("cuMemAlloc", 12000).address);
  EXPECT_EQ(exported("cuMemCreate"), ask("cuMemCreate", 12000).address);
  EXPECT_EQ(exported("cuLaunchKernel"), ask("cuLaunchKernel", 12000).address);
}

TEST_F(ResolverTest, PicksTheNewestVariantThatTheCallerKnows) {
  EXPECT_EQ(exported("cuStreamGetCaptureInfo"), ask("cuStreamGetCaptureInfo", 10010).address);
  EXPECT_EQ(exported("cuStreamGetCaptureInfo_v2"), ask("cuStreamGetCaptureInfo", 11030).address);
  EXPECT_EQ(exported("cuStreamGetCaptureInfo_v3"), ask("cuStreamGetCaptureInfo", 12030).address);
  EXPECT_EQ(exported("cuCtxGetDevice"), ask("cuCtxGetDevice", 2000).address);
}

TEST_F(ResolverTest, GivesThePerThreadVariantWhenAsked) {
  const auto flags = CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
  EXPECT_EQ(exported("cuLaunchKernel_ptsz"), ask("cuLaunchKernel", 12000, flags).address);
  EXPECT_EQ(exported("cuMemcpyHtoD_v2_ptds"), ask("cuMemcpyHtoD", 12000, flags).address);
  EXPECT_EQ(exported("cuMemAlloc_v2"), ask("cuMemAlloc", 12000, flags).address)
      << "no stream, no variant";
}

TEST_F(ResolverTest, UnknownNamesAndOldVersionsAreNoErrors) {
  for (const char* name : {"", "nope", "cuMemAlloc_v2"}) {
    const Answer answer = ask(name, 12000);
    EXPECT_RESULT(CUDA_SUCCESS, answer.result) << name;
    EXPECT_EQ(nullptr, answer.address) << name;
    EXPECT_EQ(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, answer.status) << name;
  }
  const Answer old = ask("cuMemCreate", 9000);
  EXPECT_RESULT(CUDA_SUCCESS, old.result);
  EXPECT_EQ(nullptr, old.address);
  EXPECT_EQ(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, old.status);
}

}  // namespace
}  // namespace kvshim::simulator
