// What other threads can do while one is in a copy from or to the host that waits: each answer
// was measured (docs/results/driver_semantics.md).
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
    for (CUstream* stream : {&stream_, &held_}) *stream = make_stream();
    from_ = allocate(kBytes);
    to_ = allocate(kBytes);
    ASSERT_DONE(cuMemHostAlloc(reinterpret_cast<void**>(&pinned_), kBytes, 0));
    // Here: making one later waits for the copy, too.
    for (CUevent* event : {&event_, &recorded_, &pending_}) {
      ASSERT_DONE(cuEventCreate(event, CU_EVENT_DISABLE_TIMING));
    }
    ASSERT_DONE(cuEventRecord(event_, stream_));
    ASSERT_DONE(cuStreamSynchronize(stream_));
    digits_ = kernel("kvshim_test_times_ten_plus");
  }
  void TearDown() override {
    open_ = true;
    if (copying_.joinable()) copying_.join();
    cuCtxSynchronize();
    for (const CUevent event : {event_, recorded_, pending_}) EXPECT_DONE(cuEventDestroy(event));
    for (const CUstream stream : {stream_, held_}) EXPECT_DONE(cuStreamDestroy(stream));
    EXPECT_DONE(cuMemFreeHost(pinned_));
    EXPECT_DONE(cuMemFree(from_));
    EXPECT_DONE(cuMemFree(to_));
    GpuTest::TearDown();
  }

  /// `copy` waits on a thread of its own, behind `stream`, until open_.
  void hold(CUstream stream, std::function<CUresult()> copy) {
    ASSERT_DONE(cuLaunchHostFunc(
        stream,
        [](void* open) {
          while (!static_cast<std::atomic<bool>*>(open)->load()) std::this_thread::sleep_for(1ms);
        },
        &open_));
    ASSERT_DONE(cuEventRecord(pending_, stream));
    copying_ = std::thread([this, copy = std::move(copy)] {
      EXPECT_DONE(cuCtxSetCurrent(context_));
      EXPECT_DONE(copy());
      copied_ = true;
    });
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

  using Calls = std::vector<std::unique_ptr<Call>>;
  /// A call that does not come back: the copy is in its wait. Null when they all do.
  std::unique_ptr<Call> first_held(const char* name, const std::function<CUresult()>& what,
                                   std::chrono::seconds patience) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (std::chrono::steady_clock::now() < end) {
      auto one = call(name, what);
      if (!one->done_within(500ms)) return one;
    }
    return nullptr;
  }
  std::unique_ptr<Call> first_held_fill(std::chrono::seconds patience) {
    return first_held(
        "fill", [this] { return cuMemsetD8Async(to_, 2, kBytes, stream_); }, patience);
  }
  std::unique_ptr<Call> first_held_event(std::chrono::seconds patience) {
    return first_held("event create and destroy", make_and_end_event, patience);
  }
  static CUresult make_and_end_event() {
    CUevent made = nullptr;
    const CUresult result = cuEventCreate(&made, CU_EVENT_DISABLE_TIMING);
    return result == CUDA_SUCCESS ? cuEventDestroy(made) : result;
  }

  void add_submissions(Calls* calls) {
    calls->push_back(call("launch", [this] { return launch(digits_, stream_, to_, 7U); }));
    calls->push_back(
        call("copy", [this] { return cuMemcpyDtoDAsync(to_, from_, kBytes, stream_); }));
    calls->push_back(call("record", [this] { return cuEventRecord(recorded_, stream_); }));
  }
  void add_calls_about_events(Calls* calls) {
    calls->push_back(call("record, legacy", [this] { return cuEventRecord(recorded_, nullptr); }));
    calls->push_back(call("event create and destroy", make_and_end_event));
  }
  /// What no copy holds up.
  void add_others(Calls* calls) {
    calls->push_back(call("event query", [this] { return cuEventQuery(event_); }));
    calls->push_back(
        call("wait for an event", [this] { return cuStreamWaitEvent(stream_, event_, 0); }));
    calls->push_back(call("stream query", [this] {
      const CUresult state = cuStreamQuery(stream_);
      return state == CUDA_ERROR_NOT_READY ? CUDA_SUCCESS : state;
    }));
    calls->push_back(call("memory", [] {
      std::size_t bytes = 0, total = 0;
      return cuMemGetInfo(&bytes, &total);
    }));
    calls->push_back(call("attribute", [this] {
      unsigned type = 0;
      return cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, to_);
    }));
    calls->push_back(call("mapping", [] {
      MappedSpace space(1);
      EXPECT_DONE(space.map(0, 1, space.make(1)));
      EXPECT_DONE(space.access(0, 1));
      return space.unmap(0, 1);
    }));
    calls->push_back(call("wait for an event of the held stream",
                          [this] { return cuStreamWaitEvent(stream_, pending_, 0); }));
  }
  void expect(const Calls& held, const Calls& free) {
    for (const auto& one : free) EXPECT_TRUE(one->done_within(10s)) << one->name() << " waited";
    std::this_thread::sleep_for(200ms);
    for (const auto& one : held) EXPECT_FALSE(one->done()) << one->name() << " came back";
    EXPECT_FALSE(copied_);
    open_ = true;
  }
  void expect_all_submissions_held() {
    Calls held, free;
    held.push_back(first_held_fill(20s));
    ASSERT_NE(nullptr, held.front()) << "no fill was held up";
    add_submissions(&held);
    add_calls_about_events(&held);
    add_others(&free);
    expect(held, free);
  }

  std::atomic<bool> open_{false}, copied_{false};
  std::vector<unsigned char> host_ = std::vector<unsigned char>(kBytes);
  unsigned char* pinned_ = nullptr;
  std::thread copying_;
  CUstream stream_ = nullptr, held_ = nullptr;
  CUevent event_ = nullptr, recorded_ = nullptr, pending_ = nullptr;
  CUfunction digits_ = nullptr;
  CUdeviceptr from_ = 0, to_ = 0;
};

TEST_F(HoldingCopyTest, ToPageableMemoryHoldsUpWhatOthersSubmit) {
  hold(nullptr, [this] { return cuMemcpyDtoH(host_.data(), from_, kBytes); });
  expect_all_submissions_held();
}

TEST_F(HoldingCopyTest, ToPinnedMemoryHoldsUpWhatOthersSubmit) {
  hold(nullptr, [this] { return cuMemcpyDtoH(pinned_, from_, kBytes); });
  expect_all_submissions_held();
}

TEST_F(HoldingCopyTest, FromPageableMemoryHoldsUpWhatOthersSubmit) {
  hold(nullptr, [this] { return cuMemcpyHtoD(from_, host_.data(), kBytes); });
  expect_all_submissions_held();
}

TEST_F(HoldingCopyTest, AnAsynchronousOneToPageableMemoryHoldsUpCallsAboutEvents) {
  hold(held_, [this] { return cuMemcpyDtoHAsync(host_.data(), from_, kBytes, held_); });
  Calls held, free;
  held.push_back(first_held_event(20s));
  ASSERT_NE(nullptr, held.front()) << "no event was held up";
  add_calls_about_events(&held);
  free.push_back(call("fill", [this] { return cuMemsetD8Async(to_, 2, kBytes, stream_); }));
  add_submissions(&free);
  add_others(&free);
  expect(held, free);
}

TEST_F(HoldingCopyTest, AnAsynchronousOneFromPageableMemoryDoesNotWait) {
  hold(held_, [this] { return cuMemcpyHtoDAsync(from_, host_.data(), kBytes, held_); });
  copying_.join();
  Calls free;
  add_submissions(&free);
  add_calls_about_events(&free);
  add_others(&free);
  for (const auto& one : free) EXPECT_TRUE(one->done_within(10s)) << one->name() << " waited";
  open_ = true;
}

TEST_F(HoldingCopyTest, DISABLED_OthersSubmit) {
  hold(nullptr, [this] { return cuMemcpyDtoH(host_.data(), from_, kBytes); });
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
