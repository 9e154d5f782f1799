// What the environment makes the simulator do. Each DISABLED_ test is a
// process that another test starts with that environment.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class InjectionTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (!on_simulator()) GTEST_SKIP() << "about the simulator";
  }
  std::string temporary(const char* name) {
    return ::testing::TempDir() + "kvshim_" + name + "_" + std::to_string(getpid());
  }
  std::map<std::string, std::size_t> read_counts(const std::string& file) {
    std::map<std::string, std::size_t> counts;
    std::ifstream in(file);
    std::string name, line;
    std::size_t count = 0;
    while (in >> name >> count && std::getline(in, line)) counts[name] = count;
    return counts;
  }
};

class InjectionTestChild : public GpuTest {};

CUresult create_once() {
  const CUmemAllocationProp properties = MappedSpace::properties();
  CUmemGenericAllocationHandle handle = 0;
  return cuMemCreate(&handle, kGranule, &properties, 0);
}

TEST_F(InjectionTestChild, DISABLED_ThirdCreateFails) {
  EXPECT_DONE(create_once());
  EXPECT_DONE(create_once());
  EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, create_once());
  EXPECT_DONE(create_once());
}

TEST_F(InjectionTest, FailsTheNthCall) {
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_ThirdCreateFails",
                                {{"KVSHIM_SIM_FAIL", "cuMemCreate:3"}}));
}

TEST_F(InjectionTestChild, DISABLED_AllFromTheSecondOnFail) {
  CUdeviceptr address = 0;
  EXPECT_DONE(cuMemAlloc(&address, 4096));
  for (int i = 0; i < 3; ++i) EXPECT_RESULT(CUDA_ERROR_NOT_PERMITTED, cuMemAlloc(&address, 4096));
  EXPECT_RESULT(CUDA_ERROR_ILLEGAL_STATE, create_once());
}

TEST_F(InjectionTest, FailsAllCallsFromTheNthOnWithAChosenError) {
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_AllFromTheSecondOnFail",
                                {{"KVSHIM_SIM_FAIL", "cuMemAlloc:2+=800,cuMemCreate:1=401"}}));
}

TEST_F(InjectionTest, AMisspelledInjectionEndsTheProcess) {
  EXPECT_EQ(128 + SIGABRT, in_fresh_process("InjectionTestChild.DISABLED_ThirdCreateFails",
                                            {{"KVSHIM_SIM_FAIL", "cuMemCreat:3"}}));
}

TEST_F(InjectionTestChild, DISABLED_CreateTakesLong) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_DONE(create_once());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(60));
}

TEST_F(InjectionTest, DelaysCalls) {
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_CreateTakesLong",
                                {{"KVSHIM_SIM_DELAY", "cuMemCreate:60ms"}}));
}

TEST_F(InjectionTestChild, DISABLED_LeavesThingsBehind) {
  EXPECT_DONE(create_once());
  EXPECT_DONE(create_once());
  EXPECT_DONE(cuCtxSynchronize());
  std::exit(0);
}

TEST_F(InjectionTest, CountsCallsAndLeaks) {
  const std::string trace = temporary("trace"), leaks = temporary("leaks");
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_LeavesThingsBehind",
                                {{"KVSHIM_SIM_TRACE", trace}, {"KVSHIM_SIM_LEAKS", leaks}}));
  auto counts = read_counts(trace);
  EXPECT_EQ(2u, counts["cuMemCreate"]);
  EXPECT_EQ(1u, counts["cuCtxSynchronize"]);
  EXPECT_FALSE(counts.contains("cuMemMap"));
  auto left = read_counts(leaks);
  EXPECT_EQ(2u, left["handles"]);
  EXPECT_EQ(0u, left["allocations"]);
  unlink(trace.c_str());
  unlink(leaks.c_str());
}

TEST_F(InjectionTestChild, DISABLED_HasTheMemoryItWasGiven) {
  std::size_t free_bytes = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&free_bytes, &total));
  EXPECT_EQ(std::size_t{100} << 20, total);
  EXPECT_EQ(total, free_bytes);
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAlloc(&address, total));
  EXPECT_RESULT(CUDA_ERROR_OUT_OF_MEMORY, create_once());
  ASSERT_DONE(cuMemFree(address));
  EXPECT_DONE(create_once());
}

TEST_F(InjectionTest, TheAmountOfMemoryCanBeChosen) {
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_HasTheMemoryItWasGiven",
                                {{"KVSHIM_SIM_MEMORY", "104857600"}}));
}

TEST_F(InjectionTestChild, DISABLED_SeesNoVirtualMemory) {
  int value = 1;
  ASSERT_DONE(
      cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
  EXPECT_EQ(0, value);
  EXPECT_RESULT(CUDA_ERROR_NOT_SUPPORTED, create_once());
}

TEST_F(InjectionTest, VirtualMemoryCanBeSwitchedOff) {
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_SeesNoVirtualMemory",
                                {{"KVSHIM_SIM_NO_VMM", "1"}}));
}

/// Takes 40 MiB of a shared GPU and leaves in the way the environment says.
TEST_F(InjectionTestChild, DISABLED_TakesFortyMebibytes) {
  const char* text = std::getenv("EXPECTED_FREE");
  ASSERT_NE(nullptr, text);
  const std::size_t expected = std::strtoull(text, nullptr, 10);
  std::size_t free_bytes = 0, total = 0;
  ASSERT_DONE(cuMemGetInfo(&free_bytes, &total));
  ASSERT_EQ(expected, free_bytes >> 20);
  CUdeviceptr address = 0;
  ASSERT_DONE(cuMemAlloc(&address, std::size_t{40} << 20));
  if (std::getenv("START_ANOTHER") != nullptr) {
    unsetenv("START_ANOTHER");
    EXPECT_EQ(128 + SIGKILL, in_fresh_process("InjectionTestChild.DISABLED_TakesFortyMebibytes",
                                              {{"EXPECTED_FREE", "60"}, {"DIE", "1"}}));
    ASSERT_DONE(cuMemGetInfo(&free_bytes, &total));
    EXPECT_EQ(60u, free_bytes >> 20) << "what the killed one had is free again";
    EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_TakesFortyMebibytes",
                                  {{"EXPECTED_FREE", "60"}}));
  }
  if (std::getenv("DIE") != nullptr) raise(SIGKILL);
}

TEST_F(InjectionTest, ProcessesShareAGpuAndDeathGivesBack) {
  const std::string gpu = temporary("gpu");
  EXPECT_EQ(0, in_fresh_process("InjectionTestChild.DISABLED_TakesFortyMebibytes",
                                {{"KVSHIM_SIM_GPU", gpu},
                                 {"KVSHIM_SIM_MEMORY", "104857600"},
                                 {"EXPECTED_FREE", "100"},
                                 {"START_ANOTHER", "1"}}));
  unlink(gpu.c_str());
}

}  // namespace
}  // namespace kvshim::simulator
