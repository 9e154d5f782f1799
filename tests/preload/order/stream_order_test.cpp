#include "preload/stream_order.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "tests/preload/order/stream_driver.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;
using testing::StreamDriver;

class StreamOrderTest : public ::testing::Test {
 protected:
  ~StreamOrderTest() override {
    for (const std::string& breach : driver_.breaches) ADD_FAILURE() << breach;
  }
  // As the gate submits: ordered, then told.
  int submit(StreamRef stream) {
    StreamOrder::Place place;
    EXPECT_EQ(order_.order(stream, &place), CUDA_SUCCESS);
    const int piece = driver_.work(stream.explicit_handle());
    order_.submitted(stream, place);
    return piece;
  }
  int submit(CUstream stream) { return submit(StreamRef{stream}); }
  StreamDriver driver_;
  StreamOrder order_{driver_.api()};
  CUstream a_ = driver_.make_stream(), b_ = driver_.make_stream(), c_ = driver_.make_stream();
};

TEST_F(StreamOrderTest, OneStreamCostsNoDriverCall) {
  for (int i = 0; i < 5; ++i) submit(a_);
  EXPECT_EQ(driver_.calls, 0u);
}

TEST_F(StreamOrderTest, AnotherStreamWaitsForWhatCameBefore) {
  const int first = submit(a_);
  const int second = submit(b_);
  EXPECT_TRUE(driver_.ordered(first, second));
}

TEST_F(StreamOrderTest, AnyTwoPiecesAreOrderedWhateverTheirStreams) {
  std::mt19937 random(1);
  std::vector<int> pieces;
  for (int i = 0; i < 60; ++i) {
    const CUstream streams[] = {a_, b_, c_};
    pieces.push_back(submit(streams[random() % 3]));
    for (std::size_t k = 0; k + 1 < pieces.size(); ++k) {
      ASSERT_TRUE(driver_.ordered(pieces[k], pieces.back()));
    }
  }
}

TEST_F(StreamOrderTest, WorkThatHasFinishedNeedsNoWaiting) {
  driver_.finish(submit(a_));
  ASSERT_TRUE(order_.finished());
  const unsigned calls = driver_.calls;
  submit(b_);
  EXPECT_EQ(driver_.calls, calls + 2);  // an event of its own, made and recorded; no wait
}

TEST_F(StreamOrderTest, IsFinishedOnlyWhenAllStreamsAre) {
  const int first = submit(a_), second = submit(b_);
  EXPECT_FALSE(order_.finished());
  driver_.finish(first);
  EXPECT_FALSE(order_.finished());
  driver_.finish(second);
  EXPECT_TRUE(order_.finished());
  const int third = submit(a_);
  EXPECT_FALSE(order_.finished());
  driver_.finish(third);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, StreamsOfTwoContextsAreOrdered) {
  const auto other = reinterpret_cast<CUcontext>(std::uintptr_t{2});
  const CUstream theirs = driver_.make_stream(other);
  driver_.contexts.push_back(other);
  const int first = submit(theirs);
  driver_.contexts.pop_back();
  const int second = submit(a_);  // in a thread whose context is the first one
  EXPECT_TRUE(driver_.ordered(first, second));
  driver_.finish(first);
  driver_.finish(second);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, AStreamBelongsToItsContextWhateverTheCallersIs) {
  const auto other = reinterpret_cast<CUcontext>(std::uintptr_t{2});
  const CUstream theirs = driver_.make_stream(other);
  StreamOrder::Place place;
  ASSERT_EQ(order_.order({theirs}, &place), CUDA_SUCCESS);
  EXPECT_EQ(place.context, other);
  const int first = driver_.work(theirs);
  order_.submitted({theirs}, place);
  const int second = submit(a_);
  EXPECT_TRUE(driver_.ordered(first, second));
}

TEST_F(StreamOrderTest, AStreamThatWorksAloneAgainIsNotFollowedByEvents) {
  driver_.finish(submit(a_));
  driver_.finish(submit(b_));
  for (int i = 0; i < 100; ++i) driver_.finish(submit(b_));
  const unsigned calls = driver_.calls;
  const int last = submit(b_);
  EXPECT_EQ(driver_.calls, calls);
  EXPECT_TRUE(driver_.ordered(last, submit(a_)));
}

TEST_F(StreamOrderTest, ADestroyedStreamsWorkIsKnownByItsEvent) {
  const int first = submit(a_);
  order_.before_destroy(a_);
  driver_.streams.at(a_).destroyed = true;
  EXPECT_FALSE(order_.finished());
  const int second = submit(b_);
  EXPECT_TRUE(driver_.ordered(first, second));
  driver_.finish(first);
  driver_.finish(second);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, ADestroyedStreamIsNotTouchedEvenIfItsEndWasNotRecorded) {
  submit(a_);
  driver_.record_result = CUDA_ERROR_UNKNOWN;
  EXPECT_FALSE(order_.before_destroy(a_));
  driver_.record_result = CUDA_SUCCESS;
  driver_.streams.at(a_).destroyed = true;
  submit(b_);
  EXPECT_FALSE(order_.finished()) << "nobody can tell";
}

// Else a guard of another thread could come in no order with it and not know: what it copies
// could miss what the lost work writes.
TEST_F(StreamOrderTest, WhoIsToldOfALostStreamIsToldBeforeAnyWorkComesInNoOrderWithIt) {
  submit(a_);
  driver_.record_result = CUDA_ERROR_UNKNOWN;
  unsigned told = 0;
  EXPECT_FALSE(order_.before_destroy(a_, [&] {
    ++told;
    EXPECT_EQ(order_.lost(), 0u);
    StreamOrder::Place place;
    EXPECT_NE(order_.order({b_}, &place), CUDA_SUCCESS) << "it comes in no order already";
  }));
  EXPECT_EQ(told, 1u);
  EXPECT_EQ(order_.lost(), 1u);
  StreamOrder::Place place;
  EXPECT_EQ(order_.order({b_}, &place), CUDA_SUCCESS);
}

TEST_F(StreamOrderTest, AStreamWhoseEndIsRecordedMeanwhileIsNotLost) {
  const int first = submit(a_);
  driver_.record_result = CUDA_ERROR_UNKNOWN;
  EXPECT_TRUE(order_.before_destroy(a_, [&] {
    driver_.record_result = CUDA_SUCCESS;
    EXPECT_TRUE(driver_.ordered(first, submit(b_)));
  }));
  EXPECT_EQ(order_.lost(), 0u);
}

TEST_F(StreamOrderTest, ASecondEventSavesADestroyedStreamsEnd) {
  const int first = submit(a_);
  driver_.failing_records = 1;
  EXPECT_TRUE(order_.before_destroy(a_));
  driver_.streams.at(a_).destroyed = true;
  EXPECT_FALSE(order_.finished());
  driver_.finish(first);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, TheLegacyStreamKnowsTheEndOfABlockingStream) {
  driver_.streams.at(a_).flags = 0;
  const int first = submit(a_);
  driver_.failing_records = 2;
  EXPECT_TRUE(order_.before_destroy(a_));
  driver_.streams.at(a_).destroyed = true;
  EXPECT_FALSE(order_.finished());
  driver_.finish(first);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, WaitingForTheWholeContextFindsWhatWasLost) {
  submit(a_);
  driver_.record_result = CUDA_ERROR_UNKNOWN;
  EXPECT_FALSE(order_.before_destroy(a_));
  const std::uint64_t until = order_.lost_so_far();
  submit(b_);
  EXPECT_FALSE(order_.before_destroy(b_));
  driver_.record_result = CUDA_SUCCESS;
  driver_.streams.at(a_).destroyed = driver_.streams.at(b_).destroyed = true;
  EXPECT_EQ(order_.lost(), 2u);
  order_.context_finished(driver_.contexts.front(), until);
  EXPECT_EQ(order_.lost(), 1u) << "the second one was lost while the context was waited for";
  EXPECT_FALSE(order_.finished());
  order_.context_finished(driver_.contexts.front(), order_.lost_so_far());
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, ANewStreamWithADestroyedOnesHandleIsAnotherStream) {
  const int first = submit(a_);
  order_.before_destroy(a_);
  driver_.streams.at(a_).before.clear();  // the same handle again
  const int second = submit(a_);
  EXPECT_TRUE(driver_.ordered(first, second));
  driver_.finish(second);
  EXPECT_FALSE(order_.finished());
  driver_.finish(first);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, ACapturingStreamIsAskedByItsEvent) {
  const int first = submit(a_);
  order_.before_capture({a_});
  driver_.begin_capture(a_);
  EXPECT_FALSE(order_.finished());
  driver_.finish(first);
  EXPECT_TRUE(order_.finished());
  driver_.end_capture(a_);
}

TEST_F(StreamOrderTest, BranchesOfACaptureAreOrderedAndNothingElse) {
  const int outside = submit(c_);
  driver_.join_capture(b_, driver_.begin_capture(a_));
  const int first = submit(a_), second = submit(b_), third = submit(a_);
  EXPECT_TRUE(driver_.ordered(first, second));
  EXPECT_TRUE(driver_.ordered(second, third));
  EXPECT_FALSE(driver_.ordered(outside, first)) << "a captured node waits for no executed work";
  driver_.finish(outside);
  EXPECT_TRUE(order_.finished()) << "captured work is no unfinished work";
  driver_.end_capture(a_);
}

TEST_F(StreamOrderTest, BranchesOnTwoThreadsDefaultStreamsAreOrderedInACapture) {
  const StreamRef own{nullptr, StreamFlavor::kPerThread};
  const std::uint64_t capture = driver_.begin_capture(CU_STREAM_PER_THREAD);
  const int first = submit(own);
  int second = 0;
  std::thread([&] {
    driver_.join_capture(CU_STREAM_PER_THREAD, capture);
    second = submit(own);
  }).join();
  EXPECT_TRUE(driver_.ordered(first, second));
  EXPECT_TRUE(driver_.ordered(second, submit(own)));
  driver_.end_capture(CU_STREAM_PER_THREAD);
}

TEST_F(StreamOrderTest, EachThreadsDefaultStreamIsRecordedByThatThread) {
  const StreamRef own{nullptr, StreamFlavor::kPerThread};
  int first = 0;
  std::thread([&] { first = submit(own); }).join();
  EXPECT_EQ(driver_.events.size(), 1u);
  EXPECT_FALSE(order_.finished());
  const int second = submit(a_);
  EXPECT_TRUE(driver_.ordered(first, second));
  driver_.finish(first);
  driver_.finish(second);
  EXPECT_TRUE(order_.finished());
}

// As the gate submits a list: each stream its guard, then all the work at once.
TEST_F(StreamOrderTest, WorkOfOneCallIsBehindAllGuardsAndBeforeEverythingLater) {
  const std::vector<StreamRef> list{{a_}, {b_}, {c_}};
  std::vector<int> guards, work;
  for (const StreamRef stream : list) guards.push_back(submit(stream));
  ASSERT_EQ(order_.order_together(list), CUDA_SUCCESS);
  for (const StreamRef stream : list) work.push_back(driver_.work(stream.handle));
  order_.submitted_together(list);
  for (const int guard : guards) {
    for (const int piece : work) EXPECT_TRUE(driver_.ordered(guard, piece));
  }
  for (const int first : work) {
    for (const int second : work) EXPECT_FALSE(driver_.ordered(first, second));
  }
  const int later = submit(driver_.make_stream());
  for (const int piece : work) EXPECT_TRUE(driver_.ordered(piece, later));
  for (int piece = 1; piece < later; ++piece) driver_.finish(piece);
  EXPECT_FALSE(order_.finished());
  driver_.finish(later);
  EXPECT_TRUE(order_.finished());
}

TEST_F(StreamOrderTest, WorkOfOneCallInOneStreamCostsNoEvent) {
  const std::vector<StreamRef> list{{a_}};
  submit(a_);
  ASSERT_EQ(order_.order_together(list), CUDA_SUCCESS);
  driver_.work(a_);
  order_.submitted_together(list);
  EXPECT_EQ(driver_.calls, 0u);
}

/// The only stream for so long that its work is followed by events no more.
class AloneTest : public StreamOrderTest {
 protected:
  AloneTest() {
    for (int i = 0; i < 100; ++i) before_ = submit(a_);
  }
  // Something on the stream that is no pool work and may wait for anything.
  int wait_on(CUstream stream) {
    order_.before_wait(StreamRef{stream});
    return driver_.work(stream);
  }
  int before_ = 0;
};

TEST_F(AloneTest, NobodyElsesPoolWorkComesAfterItsLaterWait) {
  const int wait = wait_on(a_);
  const int other = submit(b_);
  EXPECT_TRUE(driver_.ordered(before_, other));
  EXPECT_FALSE(driver_.ordered(wait, other));
  EXPECT_FALSE(driver_.ordered(wait, submit(c_)));
}

TEST_F(AloneTest, OneEventIsEnoughForAnyNumberOfWaits) {
  wait_on(a_);
  const unsigned calls = driver_.calls;
  wait_on(a_);
  EXPECT_EQ(driver_.calls, calls);
  submit(a_);
  wait_on(a_);
  EXPECT_EQ(driver_.calls, calls + 1) << "the event is there already, it is only recorded anew";
}

TEST_F(AloneTest, AnotherStreamsWaitCostsNothing) {
  const unsigned calls = driver_.calls;
  wait_on(b_);
  EXPECT_EQ(driver_.calls, calls);
}

TEST_F(AloneTest, AWaitOfAllStreamsIsItsWaitAsWell) {
  order_.before_wait(std::nullopt);
  const int wait = driver_.work(a_);
  EXPECT_FALSE(driver_.ordered(wait, submit(b_)));
}

// The legacy stream lies between any two blocking ones.
TEST_F(AloneTest, ABlockingStreamsWaitIsEveryBlockingStreams) {
  driver_.streams.at(a_).flags = driver_.streams.at(b_).flags = 0;
  wait_on(b_);
  const int later = driver_.work(a_);
  EXPECT_FALSE(driver_.ordered(later, submit(c_)));
}

TEST_F(AloneTest, NothingIsRecordedInACapture) {
  driver_.record_result = CUDA_ERROR_UNKNOWN;
  order_.before_capture({a_});
  driver_.record_result = CUDA_SUCCESS;
  driver_.begin_capture(a_);
  wait_on(a_);
  EXPECT_TRUE(driver_.events.empty() || driver_.events.begin()->second.after.empty());
  driver_.end_capture(a_);
}

TEST_F(AloneTest, FinishedWorkNeedsNoEvent) {
  for (int piece = 1; piece <= before_; ++piece) driver_.finish(piece);
  ASSERT_TRUE(order_.finished());
  const unsigned calls = driver_.calls;
  wait_on(a_);
  EXPECT_EQ(driver_.calls, calls);
}

TEST_F(StreamOrderTest, NullHandlesMeanTheLegacyStreamOrTheThreadsOwn) {
  EXPECT_EQ(StreamRef{}.explicit_handle(), CU_STREAM_LEGACY);
  EXPECT_EQ((StreamRef{nullptr, StreamFlavor::kPerThread}).explicit_handle(), CU_STREAM_PER_THREAD);
  EXPECT_EQ((StreamRef{a_, StreamFlavor::kPerThread}).explicit_handle(), a_);
}

TEST_F(StreamOrderTest, AContextsEndForgetsItsStreams) {
  submit(a_);
  order_.before_context_destroy(driver_.streams.at(a_).context);
  EXPECT_TRUE(order_.finished());
  const unsigned calls = driver_.calls;
  submit(b_);
  EXPECT_EQ(driver_.calls, calls);
}

// A thread is stuck in a full queue until others have made calls that come here first.
class StuckRecordTest : public StreamOrderTest {
 protected:
  void SetUp() override {
    submit(a_);
    submit(b_);
    driver_.queue_full = true;
    stuck_ = std::thread([this] { submit(a_); });
    while (!driver_.record_waits) std::this_thread::yield();
  }
  void TearDown() override {
    if (!stuck_.joinable()) return;
    driver_.queue_full = false;
    stuck_.join();
  }
  // Whether the call returns while the other thread is stuck.
  template <class Call>
  static bool returns(const Call& call, std::chrono::milliseconds patience = 20s) {
    std::atomic<bool> returned{false};
    std::thread caller([&] {
      call();
      returned = true;
    });
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!returned && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    const bool result = returned;
    if (!result) testing::stream_driver().queue_full = false;
    caller.join();
    return result;
  }

  std::thread stuck_;
};

TEST_F(StuckRecordTest, HoldsUpNoWait) {
  EXPECT_TRUE(returns([&] { order_.before_wait(StreamRef{b_}); }));
}

TEST_F(StuckRecordTest, HoldsUpNoOtherStreamsEnd) {
  EXPECT_TRUE(returns([&] { order_.before_destroy(b_); }));
}

TEST_F(StuckRecordTest, HoldsUpNobodyWhoAsksWhetherAllHasFinished) {
  EXPECT_TRUE(returns([&] { EXPECT_FALSE(order_.finished()); }));
}

// It would be recorded on in the same full queue.
TEST_F(StuckRecordTest, HoldsUpNoSubmissionThatGaveUpTheOrder) {
  EXPECT_TRUE(returns([&] {
    StreamOrder::Place place;
    EXPECT_EQ(order_.order({c_}, &place, false), CUDA_SUCCESS);
    EXPECT_EQ(place.context, driver_.contexts.back());
  }));
}

TEST_F(StuckRecordTest, IsWaitedForBeforeItsOwnStreamEnds) {
  driver_.first_record_only = true;
  EXPECT_FALSE(returns([&] { order_.before_destroy(a_); }, 50ms));
}

// Another thread's default stream has another handle there, so it can't be waited for.
TEST_F(StreamOrderTest, AnEventThatAThreadCouldNotRecordIsAnErrorForWhoComesNext) {
  std::thread other([&] {
    driver_.failing_records = 1;
    submit(CU_STREAM_PER_THREAD);
  });
  other.join();
  StreamOrder::Place place;
  EXPECT_EQ(order_.order({CU_STREAM_PER_THREAD}, &place), CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(order_.order({a_}, &place), CUDA_ERROR_UNKNOWN);
}

TEST_F(StreamOrderTest, ThreadsThatHaveEndedLeaveNothingBehind) {
  for (int i = 0; i < 30; ++i) {
    std::thread([&] { driver_.finish(submit(CU_STREAM_PER_THREAD)); }).join();
    EXPECT_TRUE(order_.finished());
  }
  submit(a_);
  EXPECT_LE(driver_.events.size(), 3u);
}

}  // namespace
}  // namespace kvshim::preload
