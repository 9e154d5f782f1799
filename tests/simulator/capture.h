// Stream capture: which calls become nodes, which are refused, which
// invalidate. The rules are those measured on driver 580 (semantics_probe).
#pragma once

#include <thread>

#include "tests/simulator/graphs.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {

struct Capture {
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  std::uint64_t id = 0;
  bool invalidated = false;
  bool ended = false;
  std::shared_ptr<Graph> graph;
  bool into_given_graph = false;
  Stream* origin = nullptr;
  std::vector<Stream*> members;
  Context* context = nullptr;
};

/// CUDA_SUCCESS while nodes can be added.
CUresult check_capture(const Capture& capture);
/// Adds the operation as a node after the stream's frontier.
CUresult capture_operation(StreamLock& lock, Stream& stream, Operation operation);
/// cuStreamWaitEvent on an event that was recorded in a capture.
CUresult join_capture(StreamLock& lock, Stream& stream, const Event& event);
CUresult refuse_outside_dependency(StreamLock& lock, Stream& stream, const Event& event);
/// The stream is destroyed while capturing.
void leave_capture(StreamLock& lock, Stream& stream);

/// Each returns CUDA_SUCCESS when the call may go on, else the error, having
/// invalidated the captures it would disturb.
/// Calls that may wait or allocate (cuMemAlloc, cuMemFree, cuMemHostAlloc...).
CUresult refuse_unsafe_call();
CUresult refuse_stream_wait(StreamLock& lock, Stream& stream);
CUresult refuse_event_wait(const StreamLock& lock, const Event& event);
CUresult refuse_context_wait(StreamLock& lock, Context& context);
/// Work on the legacy stream while a blocking stream captures.
CUresult refuse_legacy_work(StreamLock& lock, const Stream& legacy);

}  // namespace kvshim::simulator
