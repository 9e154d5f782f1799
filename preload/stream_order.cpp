#include "preload/stream_order.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "preload/graph_capture.h"
#include "preload/real_driver.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

// Never used again, as the system's ids are: an ended thread's default stream is no other's.
std::uint64_t this_thread() {
  static std::atomic<std::uint64_t> last{0};
  thread_local const std::uint64_t id = last.fetch_add(1) + 1;
  return id;
}

constexpr std::size_t kMostCaptures = 64;

// With several streams at work each submission is followed by an event: one that
// is recorded when it is needed would also wait for unrelated work submitted
// meanwhile. After this many submissions in a row one stream is taken to be alone;
// an event is then recorded before the stream is made to wait (before_wait), since
// what it waits for may be what another stream's thread does next.
constexpr unsigned kInARow = 64;
// A stream is not destroyed, nor begins it to capture, under another thread's call on it.
constexpr std::chrono::seconds kUsersPatience{10};

}  // namespace

std::atomic<std::uint64_t> StreamOrder::lost_so_far_{0};

bool StreamOrder::capturing(StreamRef stream, std::uint64_t* id) const {
  *id = 0;
  if (!any_capture()) return false;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t capture = 0;
  const CUresult result = real().cuStreamGetCaptureInfo_v2(stream.explicit_handle(), &status,
                                                           &capture, nullptr, nullptr, nullptr);
  *id = capture;
  return result == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

// A stream may be used by a thread whose current context is another one.
CUcontext StreamOrder::context_of(CUstream handle) const {
  CUcontext context = nullptr;
  const bool is_default = handle == CU_STREAM_PER_THREAD || handle == CU_STREAM_LEGACY;
  const auto get_context = real().cuStreamGetCtx;
  if (is_default || get_context == nullptr || get_context(handle, &context) != CUDA_SUCCESS) {
    driver_.cuCtxGetCurrent(&context);
  }
  return context;
}

StreamOrder::Stream* StreamOrder::find(StreamRef stream, bool make) {
  const CUstream handle = stream.explicit_handle();
  const std::uint64_t thread = handle == CU_STREAM_PER_THREAD ? this_thread() : 0;
  const bool is_default = handle == CU_STREAM_PER_THREAD || handle == CU_STREAM_LEGACY;
  CUcontext context = nullptr;
  if (is_default) driver_.cuCtxGetCurrent(&context);
  const auto is_it = [&](const Stream& s) {
    return !s.dead && s.handle == handle && s.thread == thread &&
           (!is_default || s.context == context);
  };
  if (last_ != nullptr && is_it(*last_)) return last_;
  for (Stream& s : streams_) {
    if (is_it(s)) return &s;
  }
  if (!make) return nullptr;
  // What was destroyed, or may have ended with its thread, gives way when its work has.
  std::erase_if(streams_, [&](Stream& s) {
    const bool may_go = (s.dead || s.thread != 0) && s.users == 0 && s.waiters == 0;
    if (!may_go || s.unfinished || &s == last_) return false;
    if (s.event != nullptr) spares_.push_back({s.context, s.event});
    return true;
  });
  if (!is_default) context = context_of(handle);
  Stream& made = streams_.emplace_back();
  made.handle = handle;
  made.context = context;
  made.thread = thread;
  return &made;
}

// Making and ending an event waits beside another thread's copy to the host that waits
// (measured: docs/results/driver_semantics.md): one is made without the mutex, and given to the
// next stream instead of ended. The context is current.
CUresult StreamOrder::have_event(Lock& lock, CUcontext context, CUevent* event) {
  const auto spare = std::find_if(spares_.begin(), spares_.end(),
                                  [&](const Spare& one) { return one.context == context; });
  if (spare != spares_.end()) {
    *event = spare->event;
    spares_.erase(spare);
    return CUDA_SUCCESS;
  }
  lock.unlock();
  const CUresult result = driver_.cuEventCreate(event, CU_EVENT_DISABLE_TIMING);
  lock.lock();
  return result;
}

// Event and stream must be of one context, which need not be the caller's.
CUresult StreamOrder::record(Lock& lock, Stream& stream, CUstream on) {
  vmm::ContextScope current(driver_, stream.context);
  CUresult result = CUDA_SUCCESS;
  if (stream.event == nullptr) {
    CUevent made = nullptr;
    ++stream.users;
    result = have_event(lock, stream.context, &made);
    --stream.users;
    // Another thread may have been faster, or the context is gone.
    if (stream.dead && !stream.unfinished) {
      result = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    } else if (stream.event == nullptr) {
      stream.event = made;
    } else if (made != nullptr) {
      spares_.push_back({stream.context, made});
      result = CUDA_SUCCESS;
    }
  }
  if (result == CUDA_SUCCESS) {
    const CUevent event = stream.event;
    const std::uint64_t submissions = stream.submissions;
    ++stream.users;
    lock.unlock();
    result = driver_.cuEventRecord(event, on);
    lock.lock();
    --stream.users;
    // Two threads may do so at a time: whichever comes last stands for all of it.
    if (result == CUDA_SUCCESS && stream.submissions == submissions) stream.event_is_newest = true;
  }
  stream.failure = result;
  return result;
}

bool StreamOrder::is_left_alone(Lock& lock, Stream& stream) {
  const auto end = std::chrono::steady_clock::now() + kUsersPatience;
  ++stream.waiters;
  while (stream.users != 0 && std::chrono::steady_clock::now() < end) {
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    lock.lock();
  }
  --stream.waiters;
  return stream.users == 0;
}

// What a capture takes in fills no queue: the mutex may be held.
CUresult StreamOrder::order_in_capture(Lock& lock, const Stream& now, std::uint64_t capture) {
  const CaptureEnd end = captures_[capture];
  const CaptureEnd next{now.handle, now.thread, nullptr, now.context};
  if (end.handle == next.handle && end.thread == next.thread) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  if (end.event != nullptr) {
    result = driver_.cuStreamWaitEvent(next.handle, end.event, 0);
  } else if (end.handle != nullptr) {
    vmm::ContextScope current(driver_, end.context);
    CUevent event = nullptr;
    result = have_event(lock, end.context, &event);
    if (result == CUDA_SUCCESS) {
      result = driver_.cuEventRecord(event, end.handle);
      if (result == CUDA_SUCCESS) result = driver_.cuStreamWaitEvent(next.handle, event, 0);
      spares_.push_back({end.context, event});
    }
  }
  forget(end);
  captures_[capture] = next;
  // Ids are never used again: the oldest captures have long ended.
  if (captures_.size() > kMostCaptures) {
    forget(captures_.begin()->second);
    captures_.erase(captures_.begin());
  }
  return result;
}

// Another thread can't name this one's default stream, so the event comes first.
void StreamOrder::submitted_in_capture(Lock& lock, const Stream& now, std::uint64_t capture) {
  if (now.thread == 0) return;
  const CUstream handle = now.handle;
  const CUcontext context = now.context;
  vmm::ContextScope current(driver_, context);
  CUevent event = captures_[capture].event;
  if (event == nullptr) {
    if (have_event(lock, context, &event) != CUDA_SUCCESS) return;
    captures_[capture].event = event;
  }
  driver_.cuEventRecord(event, handle);
}

void StreamOrder::forget(const CaptureEnd& end) {
  if (end.event != nullptr) spares_.push_back({end.context, end.event});
}

CUresult StreamOrder::order(StreamRef stream, Place* place, bool alone) {
  Lock lock(mutex_);
  const Stream* const now = find(stream, true);
  const CUstream handle = now->handle;
  place->context = now->context;
  place->captured = capturing(stream, &place->capture);
  if (place->captured) return order_in_capture(lock, *now, place->capture);
  Stream* const before = last_;
  if (before == nullptr || before == now || !before->unfinished) return CUDA_SUCCESS;
  if (!before->event_is_newest) {
    // A handle that must not be used any more, whose end could not be recorded.
    if (before->dead || !alone) return CUDA_SUCCESS;
    // Only its own thread can name it, and there an event could not be had.
    if (before->thread != 0 && before->thread != this_thread()) return before->failure;
    const CUresult result = record(lock, *before);
    if (result != CUDA_SUCCESS) return result;
  }
  const CUevent event = before->event;
  ++before->users;
  lock.unlock();
  const CUresult result = driver_.cuStreamWaitEvent(handle, event, 0);
  lock.lock();
  --before->users;
  return result;
}

void StreamOrder::submitted(StreamRef stream, const Place& place) {
  Lock lock(mutex_);
  Stream* const now = find(stream, true);
  if (place.captured) return submitted_in_capture(lock, *now, place.capture);
  now->unfinished = true;
  now->event_is_newest = false;
  ++now->submissions;
  if (last_ != nullptr && last_ != now) {
    events_ahead_ = kInARow;
  } else if (events_ahead_ != 0) {
    --events_ahead_;
  }
  last_ = now;
  // Only the owning thread can name its default stream.
  if (now->thread != 0 || events_ahead_ != 0) record(lock, *now);
}

CUresult StreamOrder::order_together(std::span<const StreamRef> streams, bool alone) {
  for (const StreamRef stream : streams) {
    Place place;
    if (const CUresult result = order(stream, &place, alone); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// One after the other, so that the last one's event stands for all.
void StreamOrder::submitted_together(std::span<const StreamRef> streams, bool alone) {
  for (const StreamRef stream : streams) {
    Place place;
    order(stream, &place, alone);
    submitted(stream, place);
  }
}

bool StreamOrder::finished_locked(Stream& stream) {
  if (!stream.unfinished) return true;
  CUresult state = CUDA_ERROR_NOT_READY;
  if (stream.event_is_newest) {
    state = driver_.cuEventQuery(stream.event);
  } else if (!stream.dead && stream.thread == 0) {
    vmm::ContextScope current(driver_, stream.context);
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    // A stream that joined a capture can't be asked; its capture will end.
    if (driver_.cuStreamIsCapturing(stream.handle, &capture) == CUDA_SUCCESS &&
        capture == CU_STREAM_CAPTURE_STATUS_NONE) {
      state = driver_.cuStreamQuery(stream.handle);
    }
  }
  if (state == CUDA_SUCCESS) stream.unfinished = false;
  return state == CUDA_SUCCESS;
}

bool StreamOrder::finished() {
  std::lock_guard lock(mutex_);
  for (Stream& stream : streams_) {
    if (!finished_locked(stream)) return false;
  }
  return true;
}

bool StreamOrder::all_but_lost_finished() {
  std::lock_guard lock(mutex_);
  return std::all_of(streams_.begin(), streams_.end(), [this](Stream& stream) {
    return stream.lost != 0 || finished_locked(stream);
  });
}

void StreamOrder::before_capture(StreamRef stream) {
  Lock lock(mutex_);
  // While a blocking stream captures, nothing may be recorded on the legacy one.
  for (Stream& s : streams_) {
    if (!s.dead && s.handle == CU_STREAM_LEGACY && s.unfinished && !s.event_is_newest) {
      record(lock, s);
    }
  }
  Stream* const known = find(stream, false);
  if (known == nullptr || !is_left_alone(lock, *known)) return;
  if (known->unfinished && !known->event_is_newest) record(lock, *known);
}

// Of two streams the one waits for the other without having been told to when the
// legacy stream comes between them, which waits for all blocking ones, and they for it.
bool StreamOrder::may_come_after(const Stream& stream, StreamRef other) {
  const CUstream handle = other.explicit_handle();
  if (stream.handle == handle) return true;
  const auto blocking = [](CUstream one) {
    if (one == CU_STREAM_PER_THREAD || one == CU_STREAM_LEGACY) return true;
    unsigned flags = 0;
    const auto get_flags = real().cuStreamGetFlags;
    return get_flags == nullptr || get_flags(one, &flags) != CUDA_SUCCESS ||
           (flags & CU_STREAM_NON_BLOCKING) == 0;
  };
  return blocking(handle) && blocking(stream.handle);
}

// All other streams were followed by an event when their last successor came.
void StreamOrder::before_wait(std::optional<StreamRef> stream) {
  Lock lock(mutex_);
  if (last_ == nullptr || last_->dead || !last_->unfinished || last_->event_is_newest) return;
  if (last_->thread != 0 && last_->thread != this_thread()) return;  // not ours to name
  if (stream && !may_come_after(*last_, *stream)) return;
  std::uint64_t capture = 0;
  if (!capturing({last_->handle}, &capture)) record(lock, *last_);
}

// Whether the end of the stream's work can be told after its destruction.
bool StreamOrder::record_end(Lock& lock, Stream& stream) {
  if (record(lock, stream) == CUDA_SUCCESS) return true;
  if (stream.event != nullptr && stream.users == 0) {
    driver_.cuEventDestroy_v2(std::exchange(stream.event, nullptr));
  }
  vmm::RelaxedCaptureScope relaxed(driver_);
  if (record(lock, stream) == CUDA_SUCCESS || finished_locked(stream)) return true;
  // The legacy stream waits for all blocking ones. (Not while some stream captures.)
  unsigned flags = CU_STREAM_NON_BLOCKING;
  const auto get_flags = real().cuStreamGetFlags;
  if (any_capture() || get_flags == nullptr || get_flags(stream.handle, &flags) != CUDA_SUCCESS ||
      (flags & CU_STREAM_NON_BLOCKING) != 0) {
    return false;
  }
  return record(lock, stream, CU_STREAM_LEGACY) == CUDA_SUCCESS;
}

bool StreamOrder::before_destroy(CUstream stream, const std::function<void()>& about_to_lose) {
  Lock lock(mutex_);
  bool known = true;
  const auto unknown = [](const Stream& s) { return s.unfinished && !s.event_is_newest; };
  for (Stream& s : streams_) {
    if (s.dead || s.handle != stream) continue;
    const bool own = is_left_alone(lock, s);
    if (unknown(s) && !(own && record_end(lock, s))) {
      ++s.waiters;  // it stays in the list
      lock.unlock();
      about_to_lose();
      lock.lock();
      --s.waiters;
      if (unknown(s)) {
        known = false;
        s.lost = lost_so_far_.fetch_add(1) + 1;
        lost_.fetch_add(1);
      }
    }
    s.dead = true;
  }
  std::erase_if(captures_, [&](const auto& entry) {
    if (entry.second.handle != stream) return false;
    forget(entry.second);
    return true;
  });
  return known;
}

void StreamOrder::context_finished(CUcontext context, std::uint64_t lost_before) {
  std::lock_guard lock(mutex_);
  for (Stream& s : streams_) {
    if (s.lost == 0 || s.lost > lost_before || s.context != context) continue;
    s.lost = 0;
    s.unfinished = false;
    lost_.fetch_sub(1);
  }
}

void StreamOrder::before_context_destroy(CUcontext context) {
  std::lock_guard lock(mutex_);
  std::erase_if(spares_, [&](const Spare& spare) { return spare.context == context; });
  std::erase_if(captures_, [&](const auto& entry) { return entry.second.context == context; });
  std::erase_if(streams_, [&](Stream& s) {
    if (s.context != context) return false;
    if (&s == last_) last_ = nullptr;
    if (std::exchange(s.lost, 0) != 0) lost_.fetch_sub(1);
    if (s.users == 0 && s.waiters == 0) return true;
    // Another thread's call waits for an event of it, which has happened.
    s.dead = true;
    s.unfinished = false;
    s.event = nullptr;  // it goes with the context
    return false;
  });
}

}  // namespace kvshim::preload
