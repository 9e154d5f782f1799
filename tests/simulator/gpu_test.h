// The ground of the tests that run on the simulator and on a real GPU alike.
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

extern "C" const char kvshim_ptx_test_kernels[];

namespace kvshim::simulator {

inline std::string name_of(CUresult result) {
  const char* name = nullptr;
  return cuGetErrorName(result, &name) == CUDA_SUCCESS ? name : std::to_string(result);
}

/// Compares results by name, so that a failure can be read.
#define EXPECT_RESULT(expected, call) \
  EXPECT_EQ(::kvshim::simulator::name_of(expected), ::kvshim::simulator::name_of(call))
#define ASSERT_DONE(call) ASSERT_EQ("CUDA_SUCCESS", ::kvshim::simulator::name_of(call)) << #call
#define EXPECT_DONE(call) EXPECT_EQ("CUDA_SUCCESS", ::kvshim::simulator::name_of(call)) << #call

inline constexpr std::size_t kGranule = std::size_t{2} << 20;

/// The primary context is current in each test; kernels are loaded once.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_DONE(cuInit(0));
    ASSERT_DONE(cuDevicePrimaryCtxRetain(&context_, 0));
    ASSERT_DONE(cuCtxSetCurrent(context_));
    // All of it now: loading, also the lazy part of it, waits for work under
    // way, and tests keep streams busy.
    ASSERT_DONE(cuModuleLoadData(&module_, kvshim_ptx_test_kernels));
    for (const char* name : {"kvshim_test_store", "kvshim_test_times_ten_plus", "kvshim_test_spin",
                             "kvshim_test_copy_plus_one", "kvshim_test_block_numbers"}) {
      ASSERT_DONE(cuFuncLoad(kernel(name)));
    }
  }
  void TearDown() override {
    cuCtxSynchronize();
    cuDevicePrimaryCtxRelease(0);
  }

  static bool on_simulator() {
    char name[64] = "";
    cuDeviceGetName(name, sizeof name, 0);
    return std::string(name) == "kvshim simulator";
  }

  CUfunction kernel(const char* name) {
    CUfunction function = nullptr;
    EXPECT_DONE(cuModuleGetFunction(&function, module_, name));
    return function;
  }

  template <class... Params>
  CUresult launch(CUfunction function, CUstream stream, Params... params) {
    void* pointers[] = {static_cast<void*>(&params)...};
    return cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, pointers, nullptr);
  }

  /// Zeroed, and the fill is over: tests use streams that do not wait for it.
  CUdeviceptr allocate(std::size_t bytes) {
    CUdeviceptr address = 0;
    EXPECT_DONE(cuMemAlloc(&address, bytes));
    EXPECT_DONE(cuMemsetD8(address, 0, bytes));
    EXPECT_DONE(cuCtxSynchronize());
    return address;
  }

  CUstream make_stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
    CUstream stream = nullptr;
    EXPECT_DONE(cuStreamCreate(&stream, flags));
    return stream;
  }

  unsigned read_word(CUdeviceptr address) {
    unsigned value = 0;
    EXPECT_DONE(cuMemcpyDtoH(&value, address, sizeof value));
    return value;
  }

  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
};

/// A stream that is busy until opened: a kernel waits for a pinned flag.
class BusyStream {
 public:
  BusyStream(CUfunction spin, CUstream stream) {
    void* flag = nullptr;
    EXPECT_DONE(cuMemHostAlloc(&flag, sizeof(unsigned), CU_MEMHOSTALLOC_DEVICEMAP));
    flag_ = static_cast<volatile unsigned*>(flag);
    *flag_ = 0;
    CUdeviceptr device = 0;
    EXPECT_DONE(cuMemHostGetDevicePointer(&device, flag, 0));
    void* params[] = {&device};
    EXPECT_DONE(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr));
  }
  ~BusyStream() {
    open();
    cuCtxSynchronize();
    cuMemFreeHost(const_cast<unsigned*>(flag_));
  }
  BusyStream(const BusyStream&) = delete;
  BusyStream& operator=(const BusyStream&) = delete;
  void open() { __atomic_store_n(flag_, 1U, __ATOMIC_SEQ_CST); }

 private:
  volatile unsigned* flag_ = nullptr;
};

/// Address space with handles of virtual memory, as the measured probes used it.
class MappedSpace {
 public:
  explicit MappedSpace(std::size_t granules) : bytes_(granules * kGranule) {
    EXPECT_DONE(cuMemAddressReserve(&base_, bytes_, 0, 0, 0));
  }
  ~MappedSpace() {
    cuMemUnmap(base_, bytes_);
    for (const auto handle : handles_) cuMemRelease(handle);
    cuMemAddressFree(base_, bytes_);
  }
  MappedSpace(const MappedSpace&) = delete;
  MappedSpace& operator=(const MappedSpace&) = delete;

  static CUmemAllocationProp properties(CUmemLocationType type = CU_MEM_LOCATION_TYPE_DEVICE) {
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = type;
    return properties;
  }
  CUmemGenericAllocationHandle make(std::size_t granules,
                                    CUmemLocationType type = CU_MEM_LOCATION_TYPE_DEVICE) {
    const CUmemAllocationProp wanted = properties(type);
    CUmemGenericAllocationHandle handle = 0;
    EXPECT_DONE(cuMemCreate(&handle, granules * kGranule, &wanted, 0));
    handles_.push_back(handle);
    return handle;
  }
  CUdeviceptr at(std::size_t granule) const { return base_ + granule * kGranule; }
  CUresult map(std::size_t granule, std::size_t granules, CUmemGenericAllocationHandle handle) {
    return cuMemMap(at(granule), granules * kGranule, 0, handle, 0);
  }
  CUresult access(std::size_t granule, std::size_t granules,
                  CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE) {
    CUmemAccessDesc description{};
    description.location = properties().location;
    description.flags = flags;
    return cuMemSetAccess(at(granule), granules * kGranule, &description, 1);
  }
  CUresult unmap(std::size_t granule, std::size_t granules) {
    return cuMemUnmap(at(granule), granules * kGranule);
  }

 private:
  CUdeviceptr base_ = 0;
  std::size_t bytes_;
  std::vector<CUmemGenericAllocationHandle> handles_;
};

/// Runs one disabled test of this program in a process of its own, with more
/// environment: for tests that break a context or need another simulator.
/// Returns its exit status, 128 + signal when a signal ended it.
int in_fresh_process(const std::string& test,
                     const std::vector<std::pair<std::string, std::string>>& environment = {});

}  // namespace kvshim::simulator
