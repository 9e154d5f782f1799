#include "tests/simulator/events.h"

#include <unordered_map>

#include "tests/simulator/capture.h"

namespace kvshim::simulator {
namespace {

using Events = std::unordered_map<CUevent, std::shared_ptr<Event>>;

/// Guarded by the stream mutex.
Events& events() {
  static Events* const instance = new Events;
  return *instance;
}

CUresult record(CUevent event_handle, CUstream stream_handle, unsigned flags) {
  await_turn();
  StreamLock lock(stream_mutex());
  await_copies(lock, stream_handle);
  const auto event = find_event(lock, event_handle);
  const auto stream = find_stream(lock, stream_handle);
  if (event == nullptr || stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->legacy) await_copies_before_events(lock, stream->context);
  if (stream->capture != nullptr) {
    if ((flags & CU_EVENT_RECORD_EXTERNAL) != 0) {
      return capture_operation(lock, *stream, EventRecordOperation{event});
    }
    if (const CUresult dead = check_capture(*stream->capture); dead != CUDA_SUCCESS) return dead;
    event->capture = stream->capture;
    event->frontier = stream->frontier;
    event->recorded = nullptr;
    return CUDA_SUCCESS;
  }
  if (stream->legacy) {
    if (const CUresult refused = refuse_legacy_work(lock, *stream); refused != CUDA_SUCCESS) {
      return refused;
    }
  }
  CompletionRef done = queue_work(lock, stream, EmptyOperation{});
  event->capture = nullptr;
  event->frontier.clear();
  event->recorded = std::move(done);
  return CUDA_SUCCESS;
}

}  // namespace

std::shared_ptr<Event> find_event(const StreamLock&, CUevent handle) {
  const auto found = events().find(handle);
  return found == events().end() ? nullptr : found->second;
}

CUresult api::cuEventCreate(CUevent* event, unsigned flags) {
  if (event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_EVENT_INTERPROCESS) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  auto made = std::make_shared<Event>();
  made->context = current_context();
  made->flags = flags;
  StreamLock lock(stream_mutex());
  await_copies_before_events(lock, made->context);
  *event = reinterpret_cast<CUevent>(made.get());
  events()[*event] = std::move(made);
  return CUDA_SUCCESS;
}

CUresult api::cuEventDestroy_v2(CUevent event) {
  StreamLock lock(stream_mutex());
  const auto found = find_event(lock, event);
  if (found != nullptr) await_copies_before_events(lock, found->context);
  return events().erase(event) == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult api::cuEventRecord(CUevent event, CUstream stream) { return record(event, stream, 0); }

CUresult api::cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
  return record(event, stream, flags);
}

CUresult api::cuEventQuery(CUevent handle) {
  const StreamLock lock(stream_mutex());
  const auto event = find_event(lock, handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_event_wait(lock, *event); refused != CUDA_SUCCESS) {
    return refused;
  }
  return is_complete(*event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult api::cuEventSynchronize(CUevent handle) {
  StreamLock lock(stream_mutex());
  const auto event = find_event(lock, handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult refused = refuse_event_wait(lock, *event); refused != CUDA_SUCCESS) {
    return refused;
  }
  if (const CompletionRef recorded = event->recorded) wait_for(lock, recorded);
  return event->context->sticky.load();
}

CUresult api::cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  const StreamLock lock(stream_mutex());
  const auto from = find_event(lock, start);
  const auto to = find_event(lock, end);
  if (from == nullptr || to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (((from->flags | to->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
  if (!from->recorded || !to->recorded) return CUDA_ERROR_INVALID_HANDLE;
  if (!is_complete(*from) || !is_complete(*to)) return CUDA_ERROR_NOT_READY;
  *milliseconds =
      std::chrono::duration<float, std::milli>(to->recorded->when - from->recorded->when).count();
  return CUDA_SUCCESS;
}

CUresult api::cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return api::cuEventElapsedTime(milliseconds, start, end);
}

CUresult api::cuStreamWaitEvent(CUstream stream_handle, CUevent event_handle, unsigned flags) {
  await_turn();
  StreamLock lock(stream_mutex());
  const auto stream = find_stream(lock, stream_handle);
  const auto event = find_event(lock, event_handle);
  if (stream == nullptr || event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr && (flags & CU_EVENT_WAIT_EXTERNAL) != 0) {
    return capture_operation(lock, *stream, EventWaitOperation{event});
  }
  if (event->capture != nullptr) return join_capture(lock, *stream, *event);
  if (stream->capture != nullptr) return refuse_outside_dependency(lock, *stream, *event);
  if (stream->legacy) {
    if (const CUresult refused = refuse_legacy_work(lock, *stream); refused != CUDA_SUCCESS) {
      return refused;
    }
  }
  if (is_complete(*event)) return CUDA_SUCCESS;
  queue_work(lock, stream, EmptyOperation{}, {event->recorded});
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
