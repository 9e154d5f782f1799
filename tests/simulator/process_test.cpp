// Faults and their aftermath, contexts, fork and exit. What breaks a context
// runs in a process of its own: the DISABLED_ tests are those processes.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class ProcessTest : public GpuTest {
 protected:
  void expect_broken_context(CUstream stream) {
    EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    CUdeviceptr address = 0;
    std::size_t free_bytes = 0, total = 0;
    EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&address, 4096));
    EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemGetInfo(&free_bytes, &total));
    EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
  }
};

/// Child processes: no context of the parent's.
class ProcessTestChild : public ProcessTest {
 protected:
  void TearDown() override {}
};

TEST_F(ProcessTestChild, DISABLED_WritesAReadOnlyMapping) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1, CU_MEM_ACCESS_FLAGS_PROT_READ));
  CUstream stream = make_stream();
  const CUdeviceptr known = allocate(4096);
  CUfunction digits = kernel("kvshim_test_times_ten_plus");
  ASSERT_DONE(launch(digits, stream, space.at(0), 1u));
  expect_broken_context(stream);
  EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS, launch(digits, stream, known, 1u));
  EXPECT_RESULT(CUDA_ERROR_ILLEGAL_ADDRESS,
                cuModuleGetFunction(&digits, module_, "kvshim_test_store"));
  unsigned type = 0;
  EXPECT_DONE(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, known));
  EXPECT_DONE(space.unmap(0, 1));
}

TEST_F(ProcessTestChild, DISABLED_ReadsAHole) {
  MappedSpace space(4);
  CUstream stream = make_stream();
  const CUdeviceptr to = allocate(4);
  ASSERT_DONE(launch(kernel("kvshim_test_copy_plus_one"), stream, to, space.at(2)));
  expect_broken_context(stream);
}

TEST_F(ProcessTestChild, DISABLED_UnmapsUnderWork) {
  MappedSpace space(1);
  ASSERT_DONE(space.map(0, 1, space.make(1)));
  ASSERT_DONE(space.access(0, 1));
  CUstream stream = make_stream();
  CUfunction digits = kernel("kvshim_test_times_ten_plus");
  BusyStream busy(kernel("kvshim_test_spin"), stream);
  ASSERT_DONE(launch(digits, stream, space.at(0), 1u));
  ASSERT_DONE(space.unmap(0, 1)) << "nothing waits";
  busy.open();
  expect_broken_context(stream);
}

TEST_F(ProcessTestChild, DISABLED_CopiesAHoleAsHostMemory) {
  MappedSpace space(4);
  const CUdeviceptr from = allocate(4096);
  cuMemcpy(space.at(1), from, 4096);
}

TEST_F(ProcessTest, AKernelThatWritesReadOnlyPagesBreaksTheContext) {
  EXPECT_EQ(0, in_fresh_process("ProcessTestChild.DISABLED_WritesAReadOnlyMapping"));
}

TEST_F(ProcessTest, AKernelThatReadsAHoleBreaksTheContext) {
  EXPECT_EQ(0, in_fresh_process("ProcessTestChild.DISABLED_ReadsAHole"));
}

TEST_F(ProcessTest, UnmappingUnderWorkBreaksTheContext) {
  EXPECT_EQ(0, in_fresh_process("ProcessTestChild.DISABLED_UnmapsUnderWork"));
}

#if !defined(KVSHIM_SANITIZED)  // they turn the signal into an exit
TEST_F(ProcessTest, AUnifiedCopyTakesAHoleForHostMemory) {
  EXPECT_EQ(128 + SIGSEGV, in_fresh_process("ProcessTestChild.DISABLED_CopiesAHoleAsHostMemory"));
}
#endif

TEST_F(ProcessTest, AForkedChildHasNoDriver) {
  const pid_t child = fork();
  if (child == 0) {
    std::size_t free_bytes = 0, total = 0;
    _exit(cuMemGetInfo(&free_bytes, &total) == CUDA_ERROR_NOT_INITIALIZED &&
                  cuInit(0) == CUDA_ERROR_NOT_INITIALIZED
              ? 0
              : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(0, status);
}

TEST(ProcessTestBefore, DISABLED_NothingWorksBeforeInit) {
  std::size_t free_bytes = 0, total = 0;
  EXPECT_RESULT(CUDA_ERROR_NOT_INITIALIZED, cuMemGetInfo(&free_bytes, &total));
  CUcontext context = nullptr;
  EXPECT_RESULT(CUDA_ERROR_NOT_INITIALIZED, cuDevicePrimaryCtxRetain(&context, 0));
  int version = 0;
  EXPECT_DONE(cuDriverGetVersion(&version));
  EXPECT_GE(version, 12000);
  ASSERT_DONE(cuInit(0));
  EXPECT_RESULT(CUDA_ERROR_INVALID_CONTEXT, cuMemGetInfo(&free_bytes, &total));
}

TEST_F(ProcessTest, NothingWorksBeforeInit) {
  EXPECT_EQ(0, in_fresh_process("ProcessTestBefore.DISABLED_NothingWorksBeforeInit"));
}

TEST(ProcessTestAtExit, DISABLED_SaysDeinitialized) {
  // Registered before cuInit: runs after the driver's own exit handler.
  std::atexit([] {
    CUdeviceptr address = 0;
    const CUresult result = cuMemAlloc(&address, 4096);
    _exit(result == CUDA_ERROR_DEINITIALIZED ? 7 : 1);
  });
  ASSERT_DONE(cuInit(0));
}

TEST_F(ProcessTest, SaysDeinitializedWhileTheProcessEnds) {
  if (!on_simulator()) GTEST_SKIP() << "the order of a real driver's exit is its own";
  EXPECT_EQ(7, in_fresh_process("ProcessTestAtExit.DISABLED_SaysDeinitialized"));
}

TEST_F(ProcessTest, ContextsStack) {
  CUcontext made = nullptr, current = nullptr;
  ASSERT_DONE(cuCtxCreate(&made, nullptr, 0, 0));
  ASSERT_DONE(cuCtxGetCurrent(&current));
  EXPECT_EQ(made, current);
  ASSERT_DONE(cuCtxPopCurrent(&current));
  EXPECT_EQ(made, current);
  ASSERT_DONE(cuCtxGetCurrent(&current));
  EXPECT_EQ(context_, current);
  ASSERT_DONE(cuCtxPushCurrent(made));
  ASSERT_DONE(cuCtxDestroy(made));
  ASSERT_DONE(cuCtxGetCurrent(&current));
  EXPECT_EQ(context_, current);
}

TEST_F(ProcessTest, ADestroyedContextGivesItsMemoryBack) {
  std::size_t before = 0, after = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&before, &total));
  CUcontext made = nullptr;
  ASSERT_DONE(cuCtxCreate(&made, nullptr, 0, 0));
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAlloc(&address, std::size_t{32} << 20));
  ASSERT_DONE(cuCtxDestroy(made));
  ASSERT_DONE(cuMemGetInfo(&after, &total));
  // A real context has memory of its own, which the driver may keep.
  EXPECT_LT(before - after, std::size_t{32} << 20);
}

TEST_F(ProcessTest, TheDeviceSaysWhatItCan) {
  int value = 0;
  ASSERT_DONE(
      cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
  EXPECT_EQ(1, value);
  ASSERT_DONE(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 0));
  EXPECT_EQ(1, value);
  CUdevice device = 5;
  EXPECT_RESULT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&device, 1000));
}

}  // namespace
}  // namespace kvshim::simulator
