#include "tests/preload/order/stream_driver.h"

#include <chrono>
#include <thread>

#include <algorithm>
#include <cstdlib>

#include "preload/graph_capture.h"
#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

testing::StreamDriver* current = nullptr;

CUresult capture_info(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph*,
                      const CUgraphNode**, size_t*) {
  ++current->calls;
  const std::uint64_t capture = current->stream_of(stream).capture;
  *status = capture != 0 ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  *id = capture;
  return CUDA_SUCCESS;
}

CUresult is_capturing(CUstream stream, CUstreamCaptureStatus* status) {
  cuuint64_t id = 0;
  return capture_info(stream, status, &id, nullptr, nullptr, nullptr);
}

CUresult context_now(CUcontext* out) {
  *out = current->contexts.back();
  return CUDA_SUCCESS;
}
CUresult push(CUcontext context) {
  current->contexts.push_back(context);
  return CUDA_SUCCESS;
}
CUresult pop(CUcontext* out) {
  *out = current->contexts.back();
  current->contexts.pop_back();
  return CUDA_SUCCESS;
}

CUresult event_create(CUevent* out, unsigned) {
  ++current->calls;
  *out = reinterpret_cast<CUevent>(current->last_handle++);
  current->events[*out].context = current->contexts.back();
  return CUDA_SUCCESS;
}
CUresult event_destroy(CUevent event) {
  current->events.erase(event);
  return CUDA_SUCCESS;
}
CUresult event_record(CUevent event, CUstream handle) {
  const bool first = !current->record_waits.exchange(current->queue_full);
  while (current->queue_full && (first || !current->first_record_only)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ++current->calls;
  auto& stream = current->stream_of(handle);
  if (current->record_result != CUDA_SUCCESS) return current->record_result;
  if (current->failing_records != 0) {
    --current->failing_records;
    return CUDA_ERROR_UNKNOWN;
  }
  if (handle == CU_STREAM_LEGACY) {
    for (const auto& [other, state] : current->streams) {
      if (state.flags == 0) stream.before.insert(state.before.begin(), state.before.end());
    }
  }
  if (stream.destroyed) current->breaches.push_back("record on a destroyed stream");
  if (current->events.at(event).context != stream.context) return CUDA_ERROR_INVALID_HANDLE;
  current->events.at(event).after = stream.before;
  return CUDA_SUCCESS;
}
CUresult event_query(CUevent event) {
  const auto& after = current->events.at(event).after;
  const bool all = std::all_of(after.begin(), after.end(),
                               [](int piece) { return current->done.contains(piece); });
  return all ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult wait_event(CUstream handle, CUevent event, unsigned) {
  ++current->calls;
  const auto& after = current->events.at(event).after;
  current->stream_of(handle).before.insert(after.begin(), after.end());
  return CUDA_SUCCESS;
}
CUresult stream_query(CUstream handle) {
  auto& stream = current->stream_of(handle);
  if (stream.destroyed) current->breaches.push_back("query of a destroyed stream");
  if (stream.capture != 0) current->breaches.push_back("query of a capturing stream");
  const bool all = std::all_of(stream.before.begin(), stream.before.end(),
                               [](int piece) { return current->done.contains(piece); });
  return all ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult stream_context(CUstream handle, CUcontext* out) {
  *out = current->stream_of(handle).context;
  return CUDA_SUCCESS;
}
CUresult stream_flags(CUstream handle, unsigned* out) {
  *out = current->stream_of(handle).flags;
  return CUDA_SUCCESS;
}
CUresult exchange_capture_mode(CUstreamCaptureMode*) { return CUDA_SUCCESS; }

RealDriver table_of_streams() {
  RealDriver table;
  table.cuStreamGetCtx = stream_context;
  table.cuStreamGetFlags = stream_flags;
  table.cuStreamGetCaptureInfo_v2 = capture_info;
  return table;
}
const RealDriver table = table_of_streams();

}  // namespace

namespace graph_capture_detail {
std::atomic<int> captures{0};
}

namespace real_driver_detail {
std::atomic<const RealDriver*> found{&table};
const RealDriver& find() noexcept { return table; }
}  // namespace real_driver_detail

namespace testing {

StreamDriver& stream_driver() { return *current; }

StreamDriver::StreamDriver() {
  if (current != nullptr) std::abort();
  current = this;
  contexts.push_back(reinterpret_cast<CUcontext>(std::uintptr_t{1}));
  streams[CU_STREAM_LEGACY].context = contexts.back();
  api_.cuStreamIsCapturing = is_capturing;
  api_.cuCtxGetCurrent = context_now;
  api_.cuCtxPushCurrent_v2 = push;
  api_.cuCtxPopCurrent_v2 = pop;
  api_.cuEventCreate = event_create;
  api_.cuEventDestroy_v2 = event_destroy;
  api_.cuEventRecord = event_record;
  api_.cuEventQuery = event_query;
  api_.cuStreamWaitEvent = wait_event;
  api_.cuStreamQuery = stream_query;
  api_.cuThreadExchangeStreamCaptureMode = exchange_capture_mode;
}

StreamDriver::~StreamDriver() {
  current = nullptr;
  graph_capture_detail::captures = 0;
}

StreamDriver::Stream& StreamDriver::stream_of(CUstream handle) {
  if (handle != CU_STREAM_PER_THREAD) return streams.at(handle);
  Stream& own = default_streams[std::this_thread::get_id()];
  if (own.context == nullptr) own.context = contexts.front();
  return own;
}

std::uint64_t StreamDriver::begin_capture(CUstream stream) {
  ++graph_capture_detail::captures;
  return stream_of(stream).capture = ++last_capture;
}

void StreamDriver::end_capture(CUstream stream) {
  --graph_capture_detail::captures;
  const std::uint64_t ended = stream_of(stream).capture;
  for (auto& [handle, state] : streams) {
    if (state.capture == ended) state.capture = 0;
  }
  for (auto& [thread, state] : default_streams) {
    if (state.capture == ended) state.capture = 0;
  }
}

CUstream StreamDriver::make_stream(CUcontext context) {
  const auto handle = reinterpret_cast<CUstream>(last_handle++);
  streams[handle].context = context != nullptr ? context : contexts.back();
  return handle;
}

int StreamDriver::work(CUstream handle) {
  const int piece = ++last_work;
  auto& stream = stream_of(handle);
  waits_for[piece] = stream.before;
  stream.before.insert(piece);
  return piece;
}

}  // namespace testing
}  // namespace kvshim::preload
