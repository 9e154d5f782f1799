// What the mechanism's own GPU side leaves behind when its context has ended.
#include "vmm/device_kernels.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "tests/vmm/fake_driver.h"
#include "vmm/device_memory.h"

namespace kvshim::vmm::testing {
namespace {

using namespace std::chrono_literals;

std::atomic<int> launches{0};
std::atomic<bool> launches_wait{false};
decltype(DriverApi::cuLaunchKernel) real_launch = nullptr;

class ContextEnd : public ::testing::Test {
 protected:
  void SetUp() override {
    api_ = driver_.api();
    real_launch = api_.cuLaunchKernel;
    api_.cuLaunchKernel = [](CUfunction kernel, unsigned x, unsigned y, unsigned z, unsigned tx,
                             unsigned ty, unsigned tz, unsigned shared, CUstream stream,
                             void** params, void** extra) {
      ++launches;
      while (launches_wait) std::this_thread::sleep_for(100us);
      return real_launch(kernel, x, y, z, tx, ty, tz, shared, stream, params, extra);
    };
    CUresult error = CUDA_SUCCESS;
    std::optional<Arena> reserved = Arena::reserve(api_, std::size_t{64} << 30, &error);
    ASSERT_TRUE(reserved.has_value());
    arena_ = std::make_unique<Arena>(std::move(*reserved));
    table_ = std::make_unique<PoolTable>(*arena_);
    std::string why;
    auto kernels = DeviceKernels::create(api_, *arena_, 0, "", &why);
    ASSERT_NE(kernels, nullptr) << why;
    memory_ = std::make_unique<DeviceMemory>(api_, *arena_, *table_, 0, driver_.context(),
                                             std::move(kernels),
                                             DeviceSettings{.host_budget = std::uint64_t{1} << 30});
    launches = 0;
  }
  DeviceKernels& kernels() { return memory_->kernels(); }

  FakeDriver driver_;
  DriverApi api_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<PoolTable> table_;
  std::unique_ptr<DeviceMemory> memory_;
};

TEST_F(ContextEnd, LeavesNoMemoryAndNoAddressesButTheArenas) {
  const PoolRecord* pool = nullptr;
  ASSERT_EQ(memory_->allocate(std::size_t{64} << 20, "kv", driver_.context(), &pool), CUDA_SUCCESS);
  const AbiRun wanted{arena_->granule(pool->base), 3};
  memory_->fault(std::span(&wanted, 1), true);
  // As Runtime does: what swaps took out is released by nobody else any more.
  EXPECT_TRUE(kernels().refuse_launches(1s));
  kernels().nobody_answers();
  EXPECT_EQ(kernels().channel()->give_up, 1u);
  memory_->no_guard_runs();
  EXPECT_EQ(memory_->free(pool->base), CUDA_SUCCESS);
  memory_->release_retired();
  kernels().context_ended();
  EXPECT_EQ(memory_->broken_invariant(), "");
  EXPECT_EQ(memory_->physical().device + memory_->physical().zero + memory_->physical().host, 0u);
  EXPECT_EQ(driver_.live_handles(), 0u);
  EXPECT_EQ(driver_.device_bytes(), 0u);
  EXPECT_EQ(driver_.reservations(), 1u);
  for (const std::string& what : driver_.violations()) ADD_FAILURE() << what;
  kernels().context_ended();  // once is enough, and twice harmless
  EXPECT_TRUE(driver_.violations().empty());
}

TEST_F(ContextEnd, NoLaunchReachesTheBitmapAfterIt) {
  ASSERT_TRUE(kernels().refuse_launches(1s));
  const AbiRun run{0, 1};
  CUstream stream = driver_.make_stream();
  EXPECT_EQ(kernels().launch_fixed_guard(stream, std::span(&run, 1)),
            CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(kernels().launch_linear_guard(stream, LinearWrite{}), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(kernels().launch_mark(stream, TableRead{}, 1), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(kernels().launch_clear({}), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(kernels().launch_scan(0), CUDA_ERROR_CONTEXT_IS_DESTROYED);
  EXPECT_EQ(launches, 0);
}

TEST_F(ContextEnd, KeepsTheBitmapWhileAThreadIsInALaunch) {
  const std::size_t held = driver_.live_handles();
  launches_wait = true;
  CUstream stream = driver_.make_stream();
  std::thread thread([&] {
    const AbiRun none{0, 0};
    EXPECT_EQ(kernels().launch_fixed_guard(stream, std::span(&none, 1)), CUDA_SUCCESS);
  });
  while (launches == 0) std::this_thread::sleep_for(100us);
  EXPECT_FALSE(kernels().refuse_launches(5ms));
  kernels().context_ended();
  EXPECT_EQ(driver_.live_handles(), held);
  launches_wait = false;
  thread.join();
  EXPECT_TRUE(driver_.drain(stream));
  EXPECT_TRUE(kernels().refuse_launches(1s));
  kernels().context_ended();
  EXPECT_EQ(driver_.live_handles(), 0u);
}

TEST_F(ContextEnd, KeepsEverythingOfAContextThatWasNotToEnd) {
  const std::size_t held = driver_.live_handles();
  kernels().context_ended();
  EXPECT_EQ(driver_.live_handles(), held);
}

}  // namespace
}  // namespace kvshim::vmm::testing
