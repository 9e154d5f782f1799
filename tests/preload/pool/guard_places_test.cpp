// Of several guards in front of one piece of work only the first may say that it is: the others
// prove nothing about earlier work (docs/moves.md). Seen by kernels in the guards' place.
#include <dlfcn.h>

#include <array>
#include <atomic>
#include <mutex>
#include <ostream>
#include <thread>
#include <utility>

#include "pool_fixture.h"
#include "vmm/kernels/guard.cuh"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;

enum class Guard : std::uint8_t { kFixed, kFixedBehind, kLinear, kLinearBehind };
using Guards = std::vector<Guard>;

void PrintTo(Guard guard, std::ostream* out) {
  constexpr std::array kNames{"fixed", "fixed, behind", "linear", "linear, behind"};
  *out << kNames[static_cast<std::size_t>(guard)];
}

std::mutex ran_mutex;
Guards ran;  // in the order of the GPU

void note(Guard guard) {
  const std::lock_guard lock(ran_mutex);
  ran.push_back(guard);
}

void fixed_guard(void* const* parameters) {
  const auto& params = *static_cast<const vmm::FixedGuardParams*>(parameters[0]);
  note(params.behind == 0 ? Guard::kFixed : Guard::kFixedBehind);
  kvshim_guard_fixed(params);
}

void linear_guard(void* const* parameters) {
  const auto& params = *static_cast<const vmm::LinearGuardParams*>(parameters[0]);
  note(params.behind == 0 ? Guard::kLinear : Guard::kLinearBehind);
  kvshim_guard_linear(params);
}

// vLLM's Triton writer as of Triton 3.4, and a kernel that no profile knows.
constexpr const char* kWriterName = "reshape_and_cache_kernel_flash";
constexpr const char* kUnknownName = "kvshim_test_unknown";
constexpr const char* kCode = R"(.version 6.4
.target sm_75
.address_size 64
.visible .entry reshape_and_cache_kernel_flash(
  .param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4, .param .u64 p5,
  .param .u64 p6, .param .u64 p7, .param .u64 p8, .param .u64 p9, .param .u64 p10,
  .param .u64 p11) { ret; }
.visible .entry kvshim_test_unknown(.param .u64 p0) { ret; }
)";

class GuardPlaces : public PoolTest {
 protected:
  void SetUp() override {
    const auto add_kernel = reinterpret_cast<void (*)(const char*, void (*)(void* const*))>(
        dlsym(RTLD_DEFAULT, "kvshim_simulator_add_kernel"));
    if (add_kernel == nullptr) GTEST_SKIP() << "guards that tell have to be simulated";
    add_kernel("kvshim_guard_fixed", fixed_guard);
    add_kernel("kvshim_guard_linear", linear_guard);
    add_kernel(kWriterName, [](void* const*) {});
    add_kernel(kUnknownName, [](void* const*) {});
    PoolTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(cuMemAlloc_v2(&other_pool_, kPoolBytes), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamCreate(&other_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleLoadData(&module_, kCode), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&writer_, module_, kWriterName), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleGetFunction(&unknown_, module_, kUnknownName), CUDA_SUCCESS);
    guards();
  }
  void TearDown() override {
    if (other_ != nullptr) {
      EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
      EXPECT_EQ(cuModuleUnload(module_), CUDA_SUCCESS);
      EXPECT_EQ(cuStreamDestroy_v2(other_), CUDA_SUCCESS);
      EXPECT_EQ(cuMemFree_v2(other_pool_), CUDA_SUCCESS);
    }
    PoolTest::TearDown();
  }
  /// Those that ran since the last time.
  static Guards guards() {
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
    const std::lock_guard lock(ran_mutex);
    return std::exchange(ran, {});
  }
  /// One token into the pool's first block: 64 elements of two bytes, blocks of 16 tokens.
  /// `scratch` is Triton's own.
  CUresult launch_writer(CUdeviceptr scratch) {
    constexpr std::uint64_t kRow = 64, kBlock = 2 * 16 * kRow;
    std::array<std::uint64_t, 12> values{plain_, plain_, pool_, pool_ + kBlock, plain_, plain_,
                                         plain_, kRow,   kRow,  kBlock,         kRow,   scratch};
    std::array<void*, 12> arguments{};
    for (std::size_t i = 0; i < values.size(); ++i) arguments[i] = &values[i];
    return cuLaunchKernel(writer_, 1, 1, 1, 32, 1, 1, 0, stream_, arguments.data(), nullptr);
  }
  /// A launch that may write the one pool in `stream_`, and one for the other in `second`.
  void launch_list(CUstream second) {
    std::array<CUdeviceptr, 2> written{pool_, other_pool_};
    std::array<void*, 2> arguments{&written[0], &written[1]};
    std::array<CUDA_LAUNCH_PARAMS, 2> list{};
    for (std::size_t i = 0; i < list.size(); ++i) {
      CUDA_LAUNCH_PARAMS& one = list[i];
      one.function = unknown_;
      one.gridDimX = one.gridDimY = one.gridDimZ = 1;
      one.blockDimX = one.blockDimY = one.blockDimZ = 1;
      one.hStream = i == 0 ? stream_ : second;
      one.kernelParams = &arguments[i];
    }
    EXPECT_EQ(cuLaunchCooperativeKernelMultiDevice(list.data(), list.size(), 0),
              CUDA_ERROR_INVALID_VALUE);
  }

  CUdeviceptr other_pool_ = 0;
  CUstream other_ = nullptr;
  CUmodule module_ = nullptr;
  CUfunction writer_ = nullptr, unknown_ = nullptr;
};

TEST_F(GuardPlaces, AWriterThatAlsoWritesAPoolsTailHasOneFirstGuard) {
  ASSERT_EQ(launch_writer(0), CUDA_SUCCESS);
  EXPECT_EQ(guards(), (Guards{Guard::kLinear}));
  ASSERT_EQ(launch_writer(other_pool_ + kPoolBytes - 4096), CUDA_SUCCESS);
  EXPECT_EQ(guards(), (Guards{Guard::kFixed, Guard::kLinearBehind}));
}

TEST_F(GuardPlaces, ACaptureCarriesThemToo) {
  ASSERT_EQ(cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  ASSERT_EQ(launch_writer(other_pool_ + kPoolBytes - 4096), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(stream_, &graph), CUDA_SUCCESS);
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  EXPECT_EQ(guards(), Guards{});
  ASSERT_EQ(cuGraphLaunch(exec, stream_), CUDA_SUCCESS);
  EXPECT_EQ(guards(), (Guards{Guard::kFixed, Guard::kLinearBehind})) << "none for the launch";
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
}

// The driver refuses two launches on one GPU, but not before the guards were launched.
TEST_F(GuardPlaces, OfAListOfLaunchesTheFirstHasTheFirstGuard) {
  launch_list(other_);
  EXPECT_EQ(guards(), (Guards{Guard::kFixed, Guard::kFixedBehind}));
}

TEST_F(GuardPlaces, AlsoWhereAGuardRunsInItsPoolsContext) {
  CUcontext context = nullptr;
  CUstream theirs = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&context, 0, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamCreate(&theirs, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
  launch_list(theirs);
  EXPECT_EQ(guards(), (Guards{Guard::kFixed, Guard::kFixedBehind}));
  EXPECT_EQ(cuStreamDestroy_v2(theirs), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDestroy_v2(context), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
}

// Its own guard goes into the graph; the destination has to be there sooner.
TEST_F(GuardPlaces, TheGuardThatACapturedFillNeedsAtOnceIsNotItsFirst) {
  std::atomic<bool> open{false};
  ASSERT_EQ(cuLaunchHostFunc(stream_, until_open, &open), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(plain_, pool_, kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamBeginCapture_v2(other_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  std::thread opener([&] {
    std::this_thread::sleep_for(1s);  // the fill waits meanwhile
    open = true;
  });
  EXPECT_EQ(cuMemsetD8Async(pool_, 5, kMiB, other_), CUDA_SUCCESS);
  opener.join();
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(other_, &graph), CUDA_SUCCESS);
  EXPECT_EQ(guards(), (Guards{Guard::kFixedBehind}));
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, other_), CUDA_SUCCESS);
  EXPECT_EQ(guards(), (Guards{Guard::kFixed})) << "captured";
  EXPECT_EQ(contents(pool_, kMiB), std::vector<std::uint8_t>(kMiB, 5));
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
}

}  // namespace
}  // namespace kvshim::preload
