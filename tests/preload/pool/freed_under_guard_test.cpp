// A pool is freed while another pool's guard copies its parked pages, for longer than anybody
// has patience for.
#include <dlfcn.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "pool_fixture.h"
#include "vmm/kernels/guard.cuh"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kWritten = 16 * kMiB;

// The guard's thread: it has been told what to copy; it may do so.
std::atomic<bool> about_to_copy{false}, may_copy{true};
std::atomic<std::uint32_t> copies{0};

// As kvshim_guard_fixed, but it asks for whole rows and waits before it copies.
void slow_guard(void* const* parameters) {
  using namespace vmm;
  const auto& params = *static_cast<const FixedGuardParams*>(parameters[0]);
  const GuardContext& context = params.context;
  GuardChannel* const channel = context.channel;
  guard_detail::acquire(context);
  auto kind = RequestKind::kWantedRows;
  for (;;) {
    if (kind == RequestKind::kWantedRows) {
      kernel_env::store_volatile(guard_detail::wanted_counter(context), 0);
      guard_detail::each_fixed(params, [&](std::uint32_t granule, std::uint32_t) {
        if (!guard_detail::is_present(context, granule)) {
          guard_detail::ask_for(context, granule, 1);
        }
      });
    }
    const std::uint32_t wanted = kernel_env::load_volatile(guard_detail::wanted_counter(context));
    if (wanted == 0 ||
        !guard_detail::ring_and_wait(channel, static_cast<std::uint32_t>(kind), wanted))
      break;
    if (channel->answer_kind == static_cast<std::uint32_t>(AnswerKind::kCopyFirst)) {
      copies.store(channel->copy_count);
      about_to_copy.store(true);
      while (!may_copy.load()) std::this_thread::sleep_for(1ms);
      for (std::uint32_t i = 0; i < channel->copy_count; ++i) {
        guard_detail::copy_block(channel->copies[i]);
      }
      kind = RequestKind::kCopied;
      continue;
    }
    for (std::uint32_t r = 0; r < channel->run_count; ++r) {
      for (std::uint32_t i = 0; i < channel->runs[r].count; ++i) {
        const std::uint32_t granule = channel->runs[r].first + i;
        kernel_env::atomic_or(context.present + (granule >> 5), 1u << (granule & 31u));
      }
    }
    kind = RequestKind::kWantedRows;
  }
  guard_detail::release(context);
}

class FreedUnderGuard : public PoolTest {
 protected:
  void SetUp() override {
    const auto add_kernel = reinterpret_cast<void (*)(const char*, void (*)(void* const*))>(
        dlsym(RTLD_DEFAULT, "kvshim_simulator_add_kernel"));
    if (add_kernel == nullptr) GTEST_SKIP() << "a guard that takes its time has to be simulated";
    add_kernel("kvshim_guard_fixed", slow_guard);
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    for (CUdeviceptr* const layer : {&layer_, &sibling_}) {  // of one call-site: one group
      ASSERT_EQ(cuMemAlloc_v2(layer, kPoolBytes), CUDA_SUCCESS);
    }
    ASSERT_EQ(cuStreamCreate(&other_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    const std::size_t before = free_bytes();
    ASSERT_EQ(cuMemsetD8Async(layer_, 1, kWritten, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuMemsetD8Async(sibling_, 2, kWritten, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    ASSERT_LE(free_bytes() + 2 * kWritten, before);
    ASSERT_TRUE(soon([&] { return free_bytes() + kMiB > before; })) << "nothing was parked";
    may_copy.store(false);
    about_to_copy.store(false);
  }
  void TearDown() override {
    may_copy.store(true);
    open_.store(true);
    if (other_ != nullptr) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(cuStreamDestroy_v2(other_), CUDA_SUCCESS);
      EXPECT_EQ(cuMemFree_v2(layer_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }
  // With memory_view = "physical", what is parked doesn't count.
  static std::size_t free_bytes() {
    std::size_t free = 0, total = 0;
    EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    return free;
  }

  CUdeviceptr layer_ = 0, sibling_ = 0;
  CUstream other_ = nullptr;
  std::atomic<bool> open_{false};
};

TEST_F(FreedUnderGuard, OutlivesTheCopies) {
  ASSERT_EQ(cuLaunchHostFunc(other_, until_open, &open_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFreeAsync(sibling_, other_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD8Async(layer_, 3, kMiB, stream_), CUDA_SUCCESS);
  ASSERT_TRUE(soon([] { return about_to_copy.load(); }));
  ASSERT_GE(copies.load(), 2u) << "the sibling's row was not taken along";
  open_.store(true);
  ASSERT_EQ(cuStreamSynchronize(other_), CUDA_SUCCESS);
  EXPECT_FALSE(soon([&] { return !lives(sibling_); }, 3s)) << "the guard will read there";
  may_copy.store(true);
  EXPECT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
  EXPECT_TRUE(soon([&] { return !lives(sibling_); }));
  EXPECT_EQ(contents(layer_, kMiB), std::vector<std::uint8_t>(kMiB, 3));
  EXPECT_EQ(contents(layer_ + kMiB, kMiB), std::vector<std::uint8_t>(kMiB, 1));
}

}  // namespace
}  // namespace kvshim::preload
