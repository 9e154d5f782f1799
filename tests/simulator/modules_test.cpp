// Modules, libraries, functions and launches.
#include <atomic>
#include <chrono>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

struct Triple {
  unsigned long long a, b, c;
};

class ModulesTest : public GpuTest {};

TEST_F(ModulesTest, TellsTheParametersOfAFunction) {
  CUfunction store = kernel("kvshim_test_store");
  const std::size_t offsets[] = {0, 8, 16};
  const std::size_t sizes[] = {8, 4, 24};
  std::size_t offset = 0, bytes = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_DONE(cuFuncGetParamInfo(store, i, &offset, &bytes));
    EXPECT_EQ(offsets[i], offset);
    EXPECT_EQ(sizes[i], bytes);
  }
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(store, 3, &offset, &bytes));
  const char* name = nullptr;
  ASSERT_DONE(cuFuncGetName(&name, store));
  EXPECT_STREQ("kvshim_test_store", name);
}

TEST_F(ModulesTest, KernelsAndFunctionsAreNotTheSame) {
  CUlibrary library = nullptr;
  CUkernel as_kernel = nullptr;
  CUfunction function = nullptr;
  ASSERT_DONE(cuLibraryLoadData(&library, kvshim_ptx_test_kernels, nullptr, nullptr, 0, nullptr,
                                nullptr, 0));
  ASSERT_DONE(cuLibraryGetKernel(&as_kernel, library, "kvshim_test_store"));
  ASSERT_DONE(cuKernelGetFunction(&function, as_kernel));
  EXPECT_NE(reinterpret_cast<void*>(function), reinterpret_cast<void*>(as_kernel));
  std::size_t offset = 0, bytes = 0;
  EXPECT_DONE(cuKernelGetParamInfo(as_kernel, 1, &offset, &bytes));
  EXPECT_RESULT(CUDA_ERROR_INVALID_HANDLE,
                cuFuncGetParamInfo(reinterpret_cast<CUfunction>(as_kernel), 1, &offset, &bytes));
  EXPECT_RESULT(CUDA_ERROR_INVALID_HANDLE,
                cuKernelGetParamInfo(reinterpret_cast<CUkernel>(kernel("kvshim_test_store")), 1,
                                     &offset, &bytes));
  EXPECT_DONE(cuLibraryUnload(library));
}

TEST_F(ModulesTest, LaunchesTakeKernelsAndBuffers) {
  CUlibrary library = nullptr;
  CUkernel as_kernel = nullptr;
  ASSERT_DONE(cuLibraryLoadData(&library, kvshim_ptx_test_kernels, nullptr, nullptr, 0, nullptr,
                                nullptr, 0));
  ASSERT_DONE(cuLibraryGetKernel(&as_kernel, library, "kvshim_test_store"));
  const CUdeviceptr to = allocate(8);
  ASSERT_DONE(launch(reinterpret_cast<CUfunction>(as_kernel), nullptr, to, 42u, Triple{}));
  EXPECT_EQ(42u, read_word(to));
  struct {
    CUdeviceptr to;
    unsigned value, padding;
    Triple triple;
  } buffer{to, 43, 0, {}};
  std::size_t bytes = sizeof buffer;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                   CU_LAUNCH_PARAM_END};
  CUfunction function = kernel("kvshim_test_store");
  ASSERT_DONE(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra));
  EXPECT_EQ(43u, read_word(to));
  CUlaunchConfig config{};
  config.gridDimX = config.gridDimY = config.gridDimZ = 1;
  config.blockDimX = config.blockDimY = config.blockDimZ = 1;
  unsigned value = 44;
  Triple triple{};
  CUdeviceptr address = to;
  void* params[] = {&address, &value, &triple};
  ASSERT_DONE(cuLaunchKernelEx(&config, function, params, nullptr));
  EXPECT_EQ(44u, read_word(to));
  value = 45;
  ASSERT_DONE(cuLaunchCooperativeKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, params));
  EXPECT_EQ(45u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
  EXPECT_DONE(cuLibraryUnload(library));
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
TEST_F(ModulesTest, TheOldLaunchInterfaceStillWorks) {
  const CUdeviceptr to = allocate(8);
  CUfunction function = kernel("kvshim_test_times_ten_plus");
  CUdeviceptr address = to;
  ASSERT_DONE(cuFuncSetBlockShape(function, 1, 1, 1));
  ASSERT_DONE(cuParamSetv(function, 0, &address, sizeof address));
  ASSERT_DONE(cuParamSeti(function, 8, 7));
  ASSERT_DONE(cuParamSetSize(function, 12));
  ASSERT_DONE(cuLaunch(function));
  ASSERT_DONE(cuLaunchGrid(function, 1, 1));
  EXPECT_EQ(77u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
}
#pragma GCC diagnostic pop

TEST_F(ModulesTest, TensorMapsHoldTheirAddressInPlainSight) {
  const CUdeviceptr from = allocate(1 << 20);
  CUtensorMap map{};
  const cuuint64_t dimensions[] = {64, 64}, strides[] = {64 * 4};
  const cuuint32_t box[] = {16, 16}, steps[] = {1, 1};
  const CUresult result = cuTensorMapEncodeTiled(
      &map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, reinterpret_cast<void*>(from), dimensions, strides,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  ASSERT_DONE(result);
  CUdeviceptr word = 0;
  std::memcpy(&word, &map, sizeof word);
  EXPECT_EQ(from, word);
  EXPECT_DONE(cuMemFree(from));
}

TEST_F(ModulesTest, EveryBlockOfAGridRuns) {
  const CUdeviceptr to = allocate(100 * 4);
  void* params[] = {const_cast<CUdeviceptr*>(&to)};
  ASSERT_DONE(cuLaunchKernel(kernel("kvshim_test_block_numbers"), 100, 1, 1, 32, 1, 1, 0, nullptr,
                             params, nullptr));
  std::vector<unsigned> numbers(100);
  ASSERT_DONE(cuMemcpyDtoH(numbers.data(), to, 400));
  for (unsigned i = 0; i < 100; ++i) EXPECT_EQ(i, numbers[i]);
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(ModulesTest, RefusesWrongLaunches) {
  CUfunction function = kernel("kvshim_test_block_numbers");
  CUdeviceptr to = 0;
  void* params[] = {&to};
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuLaunchKernel(function, 0, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr));
  EXPECT_RESULT(CUDA_ERROR_INVALID_VALUE,
                cuLaunchKernel(function, 1, 1, 1, 4096, 1, 1, 0, nullptr, params, nullptr));
}

TEST_F(ModulesTest, UnknownNamesAndImagesAreErrors) {
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  ASSERT_DONE(cuModuleLoadData(&module, kvshim_ptx_test_kernels));
  EXPECT_RESULT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "nothing"));
  EXPECT_DONE(cuModuleUnload(module));
  EXPECT_NE(CUDA_SUCCESS, cuModuleLoadData(&module, "no code at all"));
}

TEST_F(ModulesTest, AKernelThatTheSimulatorLacksLoadsButDoesNotLaunch) {
  if (!on_simulator()) GTEST_SKIP() << "about the simulator";
  CUmodule module = nullptr;
  CUfunction function = nullptr;
  ASSERT_DONE(cuModuleLoadData(&module,
                               ".version 6.4\n.target sm_75\n.address_size 64\n"
                               ".visible .entry elsewhere(.param .u64 p)\n{ ret; }\n"));
  ASSERT_DONE(cuModuleGetFunction(&function, module, "elsewhere"));
  EXPECT_RESULT(CUDA_ERROR_NO_BINARY_FOR_GPU, launch(function, nullptr, CUdeviceptr{0}));
  EXPECT_DONE(cuModuleUnload(module));
}

TEST_F(ModulesTest, LoadingWaitsForAKernelUnderWay) {
  CUstream stream = make_stream();
  CUfunction spin = kernel("kvshim_test_spin");
  std::thread loading;
  std::atomic<bool> loaded{false};
  {
    BusyStream busy(spin, stream);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    loading = std::thread([&] {
      cuCtxSetCurrent(context_);
      CUmodule module = nullptr;
      EXPECT_DONE(cuModuleLoadData(&module, kvshim_ptx_test_kernels));
      loaded = true;
      EXPECT_DONE(cuModuleUnload(module));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    EXPECT_FALSE(loaded.load()) << "measured: loading blocks until the kernel ends";
    busy.open();
    loading.join();
  }
  EXPECT_DONE(cuStreamDestroy(stream));
}

}  // namespace
}  // namespace kvshim::simulator
