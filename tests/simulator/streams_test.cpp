// Order of work: streams, events, the default streams.
#include <atomic>
#include <chrono>

#include "tests/simulator/gpu_test.h"

namespace kvshim::simulator {
namespace {

class StreamsTest : public GpuTest {
 protected:
  CUfunction digits() { return kernel("kvshim_test_times_ten_plus"); }
  CUfunction spin() { return kernel("kvshim_test_spin"); }
};

TEST_F(StreamsTest, WorkOfOneStreamRunsInOrder) {
  const CUdeviceptr to = allocate(4);
  CUstream stream = make_stream();
  for (unsigned i = 1; i <= 7; ++i) ASSERT_DONE(launch(digits(), stream, to, i));
  ASSERT_DONE(cuStreamSynchronize(stream));
  EXPECT_EQ(1234567u, read_word(to));
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, AnEventOrdersTwoStreams) {
  const CUdeviceptr to = allocate(4);
  CUstream first = make_stream(), second = make_stream();
  CUevent event = nullptr;
  ASSERT_DONE(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  {
    BusyStream busy(spin(), first);
    ASSERT_DONE(launch(digits(), first, to, 1u));
    ASSERT_DONE(cuEventRecord(event, first));
    ASSERT_DONE(cuStreamWaitEvent(second, event, 0));
    ASSERT_DONE(launch(digits(), second, to, 2u));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(second));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    busy.open();
    ASSERT_DONE(cuStreamSynchronize(second));
  }
  EXPECT_EQ(12u, read_word(to));
  EXPECT_DONE(cuEventQuery(event));
  EXPECT_DONE(cuEventDestroy(event));
  EXPECT_DONE(cuStreamDestroy(first));
  EXPECT_DONE(cuStreamDestroy(second));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, TheLegacyStreamWaitsForBlockingStreamsAndTheyForIt) {
  const CUdeviceptr to = allocate(4);
  CUstream blocking = make_stream(CU_STREAM_DEFAULT);
  {
    BusyStream busy(spin(), blocking);
    ASSERT_DONE(launch(digits(), blocking, to, 1u));
    ASSERT_DONE(launch(digits(), nullptr, to, 2u));
    ASSERT_DONE(launch(digits(), blocking, to, 3u));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(nullptr));
    busy.open();
    ASSERT_DONE(cuStreamSynchronize(blocking));
  }
  EXPECT_EQ(123u, read_word(to));
  EXPECT_DONE(cuStreamDestroy(blocking));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, TheLegacyStreamDoesNotWaitForNonBlockingStreams) {
  const CUdeviceptr to = allocate(4);
  CUstream stream = make_stream(CU_STREAM_NON_BLOCKING);
  {
    BusyStream busy(spin(), stream);
    ASSERT_DONE(launch(digits(), nullptr, to, 5u));
    ASSERT_DONE(cuStreamSynchronize(nullptr));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
  }
  EXPECT_EQ(5u, read_word(to));
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, ThreadsHaveDefaultStreamsOfTheirOwn) {
  const CUdeviceptr to = allocate(4);
  std::thread([&] {
    ASSERT_DONE(cuCtxSetCurrent(context_));
    ASSERT_DONE(launch(digits(), CU_STREAM_PER_THREAD, to, 1u));
    ASSERT_DONE(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    unsigned long long mine = 0;
    ASSERT_DONE(cuStreamGetId(CU_STREAM_PER_THREAD, &mine));
    unsigned long long other = 0;
    std::thread([&] {
      ASSERT_DONE(cuCtxSetCurrent(context_));
      ASSERT_DONE(cuStreamGetId(CU_STREAM_PER_THREAD, &other));
    }).join();
    EXPECT_NE(mine, other);
  }).join();
  EXPECT_EQ(1u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, HostFunctionsRunInStreamOrder) {
  CUstream stream = make_stream();
  std::atomic<int> seen{0};
  {
    BusyStream busy(spin(), stream);
    ASSERT_DONE(cuLaunchHostFunc(
        stream, [](void* data) { static_cast<std::atomic<int>*>(data)->store(1); }, &seen));
    EXPECT_EQ(0, seen.load());
  }
  EXPECT_EQ(1, seen.load());
  EXPECT_DONE(cuStreamDestroy(stream));
}

TEST_F(StreamsTest, AStreamWaitsForAValueInMemory) {
  const CUdeviceptr to = allocate(8);
  CUstream waits = make_stream(), writes = make_stream();
  ASSERT_DONE(cuStreamWaitValue32(waits, to, 9, CU_STREAM_WAIT_VALUE_GEQ));
  ASSERT_DONE(launch(digits(), waits, to + 4, 1u));
  EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits));
  ASSERT_DONE(cuStreamWriteValue32(writes, to, 10, 0));
  ASSERT_DONE(cuStreamSynchronize(waits));
  EXPECT_EQ(1u, read_word(to + 4));
  EXPECT_DONE(cuStreamDestroy(waits));
  EXPECT_DONE(cuStreamDestroy(writes));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, AnEventNeverRecordedIsComplete) {
  CUevent event = nullptr;
  ASSERT_DONE(cuEventCreate(&event, 0));
  EXPECT_DONE(cuEventQuery(event));
  EXPECT_DONE(cuEventSynchronize(event));
  EXPECT_DONE(cuStreamWaitEvent(nullptr, event, 0));
  EXPECT_DONE(cuEventDestroy(event));
}

TEST_F(StreamsTest, EventsMeasureTime) {
  CUevent start = nullptr, end = nullptr;
  ASSERT_DONE(cuEventCreate(&start, 0));
  ASSERT_DONE(cuEventCreate(&end, 0));
  ASSERT_DONE(cuEventRecord(start, nullptr));
  ASSERT_DONE(cuEventRecord(end, nullptr));
  ASSERT_DONE(cuEventSynchronize(end));
  float milliseconds = -1;
  EXPECT_DONE(cuEventElapsedTime(&milliseconds, start, end));
  EXPECT_GE(milliseconds, 0);
  EXPECT_DONE(cuEventDestroy(start));
  EXPECT_DONE(cuEventDestroy(end));
}

TEST_F(StreamsTest, FreeingWaitsForAllWorkAndHoldsUpOtherSubmissions) {
  CUstream stream = make_stream(), other = make_stream();
  const CUdeviceptr freed = allocate(kGranule), to = allocate(4);
  std::atomic<bool> done{false}, submitted{false};
  std::thread freeing, submitting;
  {
    BusyStream busy(spin(), stream);
    freeing = std::thread([&] {
      cuCtxSetCurrent(context_);
      EXPECT_DONE(cuMemFree(freed));
      done = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    submitting = std::thread([&] {
      cuCtxSetCurrent(context_);
      EXPECT_DONE(cuMemsetD8Async(to, 1, 4, other));
      submitted = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_FALSE(done.load());
    EXPECT_FALSE(submitted.load()) << "stream work is stuck behind cuMemFree (measured)";
    // The mapping calls are not.
    MappedSpace space(1);
    EXPECT_DONE(space.map(0, 1, space.make(1)));
    EXPECT_DONE(space.access(0, 1));
    EXPECT_DONE(space.unmap(0, 1));
    EXPECT_FALSE(done.load());
    busy.open();
    freeing.join();
    submitting.join();
  }
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuStreamDestroy(other));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, MappingGoesOnWhileAnotherThreadWaits) {
  CUstream stream = make_stream();
  std::thread waiting;
  {
    BusyStream busy(spin(), stream);
    waiting = std::thread([&] {
      cuCtxSetCurrent(context_);
      EXPECT_DONE(cuCtxSynchronize());
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    MappedSpace space(1);
    EXPECT_DONE(space.map(0, 1, space.make(1)));
    EXPECT_DONE(space.access(0, 1));
    EXPECT_DONE(space.unmap(0, 1));
    EXPECT_RESULT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
  }
  waiting.join();
  EXPECT_DONE(cuStreamDestroy(stream));
}

TEST_F(StreamsTest, ADestroyedStreamFinishesItsWork) {
  const CUdeviceptr to = allocate(4);
  CUstream stream = make_stream();
  {
    BusyStream busy(spin(), stream);
    ASSERT_DONE(launch(digits(), stream, to, 8u));
    ASSERT_DONE(cuStreamDestroy(stream));
    busy.open();
    ASSERT_DONE(cuCtxSynchronize());
  }
  EXPECT_EQ(8u, read_word(to));
  EXPECT_DONE(cuMemFree(to));
}

TEST_F(StreamsTest, ManyLaunchesBehindABusyKernelDoNotDeadlock) {
  const CUdeviceptr to = allocate(4);
  CUstream stream = make_stream();
  std::thread submitting;
  {
    BusyStream busy(spin(), stream);
    submitting = std::thread([&] {
      cuCtxSetCurrent(context_);
      for (int i = 0; i < 3000; ++i) EXPECT_DONE(launch(digits(), stream, to, 0u));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    busy.open();
    submitting.join();
  }
  EXPECT_DONE(cuStreamDestroy(stream));
  EXPECT_DONE(cuMemFree(to));
}

}  // namespace
}  // namespace kvshim::simulator
