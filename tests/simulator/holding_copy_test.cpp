// What other threads can do while one is in a synchronous copy of pageable memory that waits:
// each answer was measured (docs/results/driver_semantics.md).
#include <atomic>
#include <chrono>
#include <memory>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kBytes = std::size_t{1} << 20;

class HoldingCopyTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    stream_ = make_stream();
    from_ = allocate(kBytes);
    to_ = allocate(kBytes);
    ASSERT_DONE(cuEventCreate(&event_, CU_EVENT_DISABLE_TIMING));
    ASSERT_DONE(cuEventRecord(event_, stream_));
    ASSERT_DONE(cuStreamSynchronize(stream_));
    ASSERT_DONE(cuLaunchHostFunc(
        nullptr,
        [](void* open) {
          while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::sleep_for(1ms);
        },
        &open_));
    copying_ = std::thread([this] {
      EXPECT_DONE(cuCtxSetCurrent(context_));
      EXPECT_DONE(cuMemcpyDtoH(host_.data(), from_, kBytes));
    });
  }
  void TearDown() override {
    open_ = true;
    if (copying_.joinable()) copying_.join();
    cuCtxSynchronize();
    EXPECT_DONE(cuEventDestroy(event_));
    EXPECT_DONE(cuStreamDestroy(stream_));
    EXPECT_DONE(cuMemFree(from_));
    EXPECT_DONE(cuMemFree(to_));
    GpuTest::TearDown();
  }

  /// A call on a thread of its own; joined at its end.
  class Call {
   public:
    Call(CUcontext context, const char* name, std::function<CUresult()> call)
        : name_(name), thread_([this, context, call = std::move(call)] {
            EXPECT_DONE(cuCtxSetCurrent(context));
            EXPECT_DONE(call()) << name_;
            done_ = true;
          }) {}
    ~Call() { thread_.join(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    const char* name() const { return name_; }
    bool done() const { return done_; }
    bool done_within(std::chrono::milliseconds patience) const {
      const auto end = std::chrono::steady_clock::now() + patience;
      while (!done_ && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
      return done_;
    }

   private:
    const char* name_;
    std::atomic<bool> done_{false};
    std::thread thread_;
  };
  std::unique_ptr<Call> call(const char* name, std::function<CUresult()> what) {
    return std::make_unique<Call>(context_, name, std::move(what));
  }

  CUresult fill() { return cuMemsetD8Async(to_, 2, kBytes, stream_); }
  /// A fill that does not come back: the copy is in its wait. Null when they all do.
  std::unique_ptr<Call> first_held_fill(std::chrono::seconds patience) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < end) {
      auto one = call("fill", [this] { return fill(); });
      if (!one->done_within(500ms)) return one;
    }
    return nullptr;
  }

  std::atomic<bool> open_{false};
  std::vector<unsigned char> host_ = std::vector<unsigned char>(kBytes);
  std::thread copying_;
  CUstream stream_ = nullptr;
  CUevent event_ = nullptr;
  CUdeviceptr from_ = 0, to_ = 0;
};

TEST_F(HoldingCopyTest, HoldsUpWhatOthersSubmitAndNothingElse) {
  CUevent recorded = nullptr;
  ASSERT_DONE(cuEventCreate(&recorded, CU_EVENT_DISABLE_TIMING));
  std::vector<std::unique_ptr<Call>> held;
  held.push_back(first_held_fill(20s));
  ASSERT_NE(nullptr, held.front()) << "no fill was held up";
  const CUfunction digits = kernel("kvshim_test_times_ten_plus");
  held.push_back(call("launch", [&] { return launch(digits, stream_, to_, 7U); }));
  held.push_back(call("copy", [&] { return cuMemcpyDtoDAsync(to_, from_, kBytes, stream_); }));
  held.push_back(call("record", [&] { return cuEventRecord(recorded, stream_); }));
  held.push_back(call("record, legacy", [&] { return cuEventRecord(recorded, nullptr); }));

  std::vector<std::unique_ptr<Call>> free;
  free.push_back(call("event query", [&] { return cuEventQuery(event_); }));
  free.push_back(call("wait for an event", [&] { return cuStreamWaitEvent(stream_, event_, 0); }));
  free.push_back(call("stream query", [&] {
    const CUresult state = cuStreamQuery(stream_);
    return state == CUDA_ERROR_NOT_READY ? CUDA_SUCCESS : state;
  }));
  free.push_back(call("memory", [] {
    std::size_t bytes = 0, total = 0;
    return cuMemGetInfo(&bytes, &total);
  }));
  free.push_back(call("attribute", [&] {
    unsigned type = 0;
    return cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, to_);
  }));
  free.push_back(call("mapping", [] {
    MappedSpace space(1);
    EXPECT_DONE(space.map(0, 1, space.make(1)));
    EXPECT_DONE(space.access(0, 1));
    return space.unmap(0, 1);
  }));
  for (const auto& one : free) EXPECT_TRUE(one->done_within(10s)) << one->name() << " waited";
  std::this_thread::sleep_for(200ms);
  for (const auto& one : held) EXPECT_FALSE(one->done()) << one->name() << " came back";
  open_ = true;
  held.clear();
  free.clear();
  EXPECT_DONE(cuEventDestroy(recorded));
}

TEST_F(HoldingCopyTest, DISABLED_OthersSubmit) {
  const auto stuck = first_held_fill(2s);
  EXPECT_EQ(nullptr, stuck);
  open_ = true;
}

TEST_F(HoldingCopyTest, HoldsUpNobodyWhereThatIsAskedFor) {
  if (!on_simulator()) GTEST_SKIP() << "about the simulator";
  open_ = true;
  EXPECT_EQ(0, in_fresh_process("HoldingCopyTest.DISABLED_OthersSubmit",
                                {{"KVSHIM_SIM_COPIES_HOLD_NOTHING", "1"}}));
}

}  // namespace
}  // namespace kvshim::simulator
