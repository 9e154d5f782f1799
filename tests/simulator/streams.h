// Streams: first-in-first-out queues, each carried out by a thread of its own
// that starts with the first piece of work. One mutex orders all submissions,
// completions, captures and graph changes of the process.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/simulator/contexts.h"
#include "tests/simulator/operations.h"

namespace kvshim::simulator {

struct Capture;
struct Node;
struct Stream;

/// The end of one piece of work.
struct Completion {
  bool done = false;
  std::chrono::steady_clock::time_point when;
  std::vector<Stream*> waiting;  // streams whose front work needs it
};
using CompletionRef = std::shared_ptr<Completion>;

struct Work {
  Operation operation;
  std::vector<CompletionRef> after;
  CompletionRef done;
};

struct Stream {
  Context* context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  std::uint64_t id = 0;
  bool legacy = false;
  bool destroyed = false;
  bool started = false;
  std::deque<Work> queue;  // the front one may be running
  CompletionRef last;      // of the newest work, null before the first
  std::condition_variable wake;
  std::condition_variable room;  // the queue has a place again
  std::map<CUstreamAttrID, CUstreamAttrValue> attributes;
  // While capturing: the capture and the nodes that the next one depends on.
  std::shared_ptr<Capture> capture;
  std::vector<Node*> frontier;

  bool blocking() const { return !legacy && (flags & CU_STREAM_NON_BLOCKING) == 0; }
};

struct Event {
  Context* context = nullptr;
  unsigned flags = 0;
  CompletionRef recorded;  // null: never recorded, counts as complete
  // Recorded in a capture: the nodes it stands for.
  std::shared_ptr<Capture> capture;
  std::vector<Node*> frontier;
};

/// The one mutex. Never held while work executes or a thread waits for work.
std::mutex& stream_mutex();
using StreamLock = std::unique_lock<std::mutex>;

/// Calls that wait for all work hold this while they wait (cuMemFree and
/// relatives), and every submission takes it first: on the real driver stream
/// work of other threads is stuck behind them (measured).
std::mutex& submission_mutex();
void await_turn();

/// The stream a handle names for the call under way; null when there is none.
std::shared_ptr<Stream> find_stream(const StreamLock&, CUstream handle);
std::shared_ptr<Event> find_event(const StreamLock&, CUevent handle);

/// Waits until the copies have ended that hold up the submissions of the stream's context now;
/// the lock is released meanwhile. What is captured is not submitted, and does not wait.
void await_copies(StreamLock& lock, CUstream stream);

/// The same for calls that make or end events of the context, or record one in its legacy
/// stream, which even an asynchronous copy to pageable memory holds up.
void await_copies_before_events(StreamLock& lock, Context* context);

/// Queues `operation`, or adds it as a node when the stream is capturing.
/// Waits while the stream's queue is full.
CUresult submit(CUstream stream, Operation operation);
/// What becomes of other threads' calls while a copy waits for its stream: a synchronous one
/// from or to the host holds up all submissions to the context, an asynchronous one to pageable
/// memory some calls about events (measured: docs/results/driver_semantics.md).
enum class Others : std::uint8_t { kGoOn, kEventsHeldUp, kHeldUp };
/// The same, and then waits for it (the synchronous calls).
CUresult submit_and_wait(CUstream stream, Operation operation, Others others = Others::kGoOn);
/// Queues it whatever is captured; the lock stays held except while the queue is full.
CompletionRef queue_work(StreamLock& lock, const std::shared_ptr<Stream>& stream,
                         Operation operation, std::vector<CompletionRef> after = {});

void complete(const StreamLock&, const CompletionRef& completion);
/// Blocks until it is done; the lock is released meanwhile.
void wait_for(StreamLock& lock, const CompletionRef& completion);
/// What has to be done for the stream to count as finished (for the legacy
/// stream this includes the blocking ones).
std::vector<CompletionRef> unfinished(const StreamLock&, const Stream& stream);
/// Waits for all work of the context that was submitted before the call.
void synchronize_context(Context* context);
void synchronize_context(StreamLock& lock, Context* context);

std::shared_ptr<Stream> make_legacy_stream(Context* context);
void destroy_streams_of(Context* context);

/// All streams that exist (not destroyed), of any context.
std::vector<std::shared_ptr<Stream>> all_streams(const StreamLock&);

/// A load of code waits until the kernels, graphs and waits for values that
/// execute now have ended.
void wait_for_running_work();

}  // namespace kvshim::simulator
