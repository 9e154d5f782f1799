#include "preload/stream_order.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "preload/real_driver.h"
#include "vmm/context_scope.h"

namespace kvshim::preload {
namespace {

std::uint64_t this_thread() {
  thread_local const auto id = static_cast<std::uint64_t>(syscall(SYS_gettid));
  return id;
}

constexpr std::size_t kMostCaptures = 64;

}  // namespace

bool StreamOrder::capturing(StreamRef stream, std::uint64_t* id) const {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t capture = 0;
  const CUresult result = real().cuStreamGetCaptureInfo_v2(
      stream.explicit_handle(), &status, &capture, nullptr, nullptr, nullptr);
  *id = capture;
  return result == CUDA_SUCCESS && status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

StreamOrder::Stream* StreamOrder::find(StreamRef stream, bool make) {
  const CUstream handle = stream.explicit_handle();
  const std::uint64_t thread = handle == CU_STREAM_PER_THREAD ? this_thread() : 0;
  const bool is_default = handle == CU_STREAM_PER_THREAD || handle == CU_STREAM_LEGACY;
  CUcontext context = nullptr;
  if (is_default || make) driver_.cuCtxGetCurrent(&context);
  for (Stream& s : streams_) {
    if (!s.dead && s.handle == handle && s.thread == thread &&
        (!is_default || s.context == context)) {
      return &s;
    }
  }
  if (!make) return nullptr;
  // Streams that were destroyed after their work had finished give way.
  std::erase_if(streams_, [&](Stream& s) {
    if (!s.dead || s.unfinished || &s == last_) return false;
    if (s.event != nullptr) driver_.cuEventDestroy_v2(s.event);
    return true;
  });
  streams_.push_back({handle, context, thread, nullptr, false, false, false});
  return &streams_.back();
}

// Event and stream must be of one context, which need not be the caller's.
CUresult StreamOrder::record(Stream& stream) {
  vmm::ContextScope current(driver_, stream.context);
  CUresult result = CUDA_SUCCESS;
  if (stream.event == nullptr) {
    result = driver_.cuEventCreate(&stream.event, CU_EVENT_DISABLE_TIMING);
  }
  if (result == CUDA_SUCCESS) result = driver_.cuEventRecord(stream.event, stream.handle);
  stream.event_is_newest = result == CUDA_SUCCESS;
  return result;
}

CUresult StreamOrder::order(StreamRef stream) {
  std::lock_guard lock(mutex_);
  const CUstream handle = stream.explicit_handle();
  std::uint64_t capture = 0;
  if (capturing(stream, &capture)) {
    CUstream& last = last_in_capture_[capture];
    CUresult result = CUDA_SUCCESS;
    if (last != nullptr && last != handle) {
      CUevent event = nullptr;
      result = driver_.cuEventCreate(&event, CU_EVENT_DISABLE_TIMING);
      if (result == CUDA_SUCCESS) {
        result = driver_.cuEventRecord(event, last);
        if (result == CUDA_SUCCESS) result = driver_.cuStreamWaitEvent(handle, event, 0);
        driver_.cuEventDestroy_v2(event);
      }
    }
    last = handle;
    // Ids are never used again: the oldest captures have long ended.
    if (last_in_capture_.size() > kMostCaptures) last_in_capture_.erase(last_in_capture_.begin());
    return result;
  }
  Stream* const now = find(stream, true);
  if (last_ == nullptr || last_ == now || !last_->unfinished) return CUDA_SUCCESS;
  if (!last_->event_is_newest) {
    // A handle that must not be used any more, whose end could not be recorded.
    if (last_->dead) return CUDA_SUCCESS;
    const CUresult result = record(*last_);
    if (result != CUDA_SUCCESS) return result;
  }
  return driver_.cuStreamWaitEvent(handle, last_->event, 0);
}

void StreamOrder::submitted(StreamRef stream) {
  std::lock_guard lock(mutex_);
  std::uint64_t capture = 0;
  if (capturing(stream, &capture)) return;
  Stream* const now = find(stream, true);
  now->unfinished = true;
  now->event_is_newest = false;
  last_ = now;
  // Only the owning thread can name its default stream. With several streams an
  // event recorded later would also wait for unrelated work submitted meanwhile.
  const bool several = std::count_if(streams_.begin(), streams_.end(),
                                     [](const Stream& s) { return !s.dead; }) > 1;
  if (now->thread != 0 || several) record(*now);
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

void StreamOrder::before_capture(StreamRef stream) {
  std::lock_guard lock(mutex_);
  // While a blocking stream captures, nothing may be recorded on the legacy one.
  for (Stream& s : streams_) {
    if (!s.dead && s.handle == CU_STREAM_LEGACY && s.unfinished && !s.event_is_newest) record(s);
  }
  Stream* const known = find(stream, false);
  if (known != nullptr && known->unfinished && !known->event_is_newest) record(*known);
}

void StreamOrder::before_destroy(CUstream stream) {
  std::lock_guard lock(mutex_);
  for (Stream& s : streams_) {
    if (s.dead || s.handle != stream) continue;
    if (s.unfinished && !s.event_is_newest) record(s);
    s.dead = true;
  }
  std::erase_if(last_in_capture_, [&](const auto& entry) { return entry.second == stream; });
}

void StreamOrder::before_context_destroy(CUcontext context) {
  std::lock_guard lock(mutex_);
  std::erase_if(streams_, [&](const Stream& s) {
    if (s.context != context) return false;
    if (&s == last_) last_ = nullptr;
    return true;
  });
}

}  // namespace kvshim::preload
