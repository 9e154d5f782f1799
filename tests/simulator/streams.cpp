#include "tests/simulator/streams.h"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/simulator/capture.h"
#include "tests/simulator/events.h"

namespace kvshim::simulator {
namespace {

// A stream takes this many pieces of work; then submission waits. (The real
// limit is about ten times as high; a lower one finds the same mistakes sooner.)
constexpr std::size_t kQueueLimit = 1024;

struct Streams {
  std::mutex mutex;
  std::mutex submission;
  std::condition_variable host;  // host threads that wait for a completion
  std::unordered_map<CUstream, std::shared_ptr<Stream>> streams;
  std::vector<std::weak_ptr<Stream>> thread_streams;
  std::vector<std::shared_ptr<Stream>> legacy_streams;
  std::vector<std::shared_ptr<Stream>> draining;  // destroyed with work left
  std::uint64_t next_id = 10;
  std::unordered_map<std::uint64_t, bool> running;  // by ticket
  std::uint64_t next_ticket = 1;
};

Streams& streams() {
  static Streams* const instance = new Streams;
  return *instance;
}

// By value: the thread keeps its stream alive.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void run_stream(std::shared_ptr<Stream> stream) {
  Streams& all = streams();
  StreamLock lock(all.mutex);
  for (;;) {
    while (stream->queue.empty() && !stream->destroyed) stream->wake.wait(lock);
    if (stream->queue.empty()) {
      std::erase(all.draining, stream);
      return;
    }
    Work& work = stream->queue.front();  // stays where it is: deque, and only we pop
    for (std::size_t i = 0; i < work.after.size(); ++i) {
      const CompletionRef before = work.after[i];
      while (!before->done) {
        before->waiting.push_back(stream.get());
        stream->wake.wait(lock);
      }
    }
    const bool counted = std::holds_alternative<KernelOperation>(work.operation) ||
                         std::holds_alternative<GraphOperation>(work.operation) ||
                         std::holds_alternative<MemoryOperations>(work.operation);
    const std::uint64_t ticket = all.next_ticket++;
    if (counted) all.running[ticket] = true;
    lock.unlock();
    // After a fault nothing of the context is carried out any more.
    if (stream->context->sticky.load() == CUDA_SUCCESS) {
      if (const CUresult result = execute(work.operation, *stream->context);
          result != CUDA_SUCCESS) {
        stream->context->sticky.store(result);
      }
    }
    lock.lock();
    if (counted) all.running.erase(ticket);
    complete(lock, work.done);
    Operation finished = std::move(work.operation);
    stream->queue.pop_front();
    stream->room.notify_all();
    lock.unlock();
    finished = EmptyOperation{};  // freed without the lock
    lock.lock();
  }
}

void start_thread(const std::shared_ptr<Stream>& stream) {
  if (stream->started) return;
  stream->started = true;
  // The application's signals stay with the application's threads.
  sigset_t everything, before;
  sigfillset(&everything);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) {
    sigdelset(&everything, fault);
  }
  pthread_sigmask(SIG_SETMASK, &everything, &before);
  std::thread(run_stream, stream).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void destroy_locked(const std::shared_ptr<Stream>& stream) {
  if (stream->destroyed) return;
  stream->destroyed = true;
  // What is queued is still carried out, and waited for.
  if (!stream->queue.empty()) streams().draining.push_back(stream);
  stream->wake.notify_all();
}

/// The calling thread's own default streams, one a context.
struct ThreadStreams {
  std::vector<std::shared_ptr<Stream>> streams;
  ~ThreadStreams() {
    StreamLock lock(simulator::streams().mutex);
    for (const auto& stream : streams) {
      if (stream->capture != nullptr) leave_capture(lock, *stream);
      destroy_locked(stream);
    }
  }
};
thread_local ThreadStreams thread_streams;

std::shared_ptr<Stream> make_stream_locked(Streams& all, Context* context, unsigned flags,
                                           int priority) {
  auto stream = std::make_shared<Stream>();
  stream->context = context;
  stream->flags = flags;
  stream->priority = std::clamp(priority, -5, 0);
  stream->id = all.next_id++;
  return stream;
}

CUstream stream_handle(const Stream& stream) {
  return reinterpret_cast<CUstream>(const_cast<Stream*>(&stream));
}

}  // namespace

std::mutex& stream_mutex() { return streams().mutex; }
std::mutex& submission_mutex() { return streams().submission; }

// Passed, not kept: a thread that waits for room in a full queue hinders nobody.
void await_turn() { const std::lock_guard turn(submission_mutex()); }

std::shared_ptr<Stream> make_legacy_stream(Context* context) {
  Streams& all = streams();
  const StreamLock lock(all.mutex);
  auto stream = make_stream_locked(all, context, CU_STREAM_DEFAULT, 0);
  stream->legacy = true;
  all.legacy_streams.push_back(stream);
  return stream;
}

std::shared_ptr<Stream> find_stream(const StreamLock&, CUstream handle) {
  Streams& all = streams();
  if (handle == nullptr) {
    handle = call_flavor == StreamFlavor::kPerThread ? CU_STREAM_PER_THREAD : CU_STREAM_LEGACY;
  }
  if (handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
    Context* context = current_context();
    if (context == nullptr) return nullptr;
    if (handle == CU_STREAM_LEGACY) return context->legacy_stream;
    for (const auto& stream : thread_streams.streams) {
      if (stream->context == context && !stream->destroyed) return stream;
    }
    auto stream = make_stream_locked(all, context, CU_STREAM_DEFAULT, 0);
    thread_streams.streams.push_back(stream);
    std::erase_if(all.thread_streams, [](const auto& known) { return known.expired(); });
    all.thread_streams.push_back(stream);
    return stream;
  }
  const auto found = all.streams.find(handle);
  return found == all.streams.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Stream>> all_streams(const StreamLock&) {
  Streams& all = streams();
  std::vector<std::shared_ptr<Stream>> found = all.legacy_streams;
  found.insert(found.end(), all.draining.begin(), all.draining.end());
  for (const auto& [handle, stream] : all.streams) found.push_back(stream);
  for (const auto& known : all.thread_streams) {
    if (auto stream = known.lock()) found.push_back(std::move(stream));
  }
  return found;
}

CompletionRef queue_work(StreamLock& lock, const std::shared_ptr<Stream>& stream,
                         Operation operation, std::vector<CompletionRef> after) {
  while (stream->queue.size() >= kQueueLimit) stream->room.wait(lock);
  // The legacy stream and the blocking ones wait for each other.
  if (stream->legacy) {
    for (const auto& other : all_streams(lock)) {
      if (other->context == stream->context && other->blocking() && other->last &&
          !other->last->done) {
        after.push_back(other->last);
      }
    }
  } else if (stream->blocking()) {
    const auto& legacy = stream->context->legacy_stream;
    if (legacy && legacy->last && !legacy->last->done) after.push_back(legacy->last);
  }
  auto done = std::make_shared<Completion>();
  stream->queue.push_back(Work{std::move(operation), std::move(after), done});
  stream->last = done;
  start_thread(stream);
  stream->wake.notify_one();
  return done;
}

namespace {

CUresult submit_locked(StreamLock& lock, CUstream handle, Operation operation,
                       CompletionRef* done) {
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture != nullptr) return capture_operation(lock, *stream, std::move(operation));
  if (stream->legacy) {
    if (const CUresult refused = refuse_legacy_work(lock, *stream); refused != CUDA_SUCCESS) {
      return refused;
    }
  }
  *done = queue_work(lock, stream, std::move(operation));
  return CUDA_SUCCESS;
}

}  // namespace

void await_copies(StreamLock& lock, CUstream handle) {
  const auto stream = find_stream(lock, handle);
  if (stream == nullptr || stream->capture != nullptr) return;
  // Only those of now: a thread that copies in a loop must not starve the others.
  const std::vector<CompletionRef> copies = stream->context->holding_copies;
  for (const auto& copy : copies) wait_for(lock, copy);
}

void await_copies_before_events(StreamLock& lock, Context* context) {
  if (context == nullptr) return;
  const std::vector<CompletionRef> copies = context->copies_before_events;
  for (const auto& copy : copies) wait_for(lock, copy);
}

CUresult submit(CUstream handle, Operation operation) {
  await_turn();
  StreamLock lock(stream_mutex());
  await_copies(lock, handle);
  CompletionRef done;
  return submit_locked(lock, handle, std::move(operation), &done);
}

CUresult submit_and_wait(CUstream handle, Operation operation, Others others) {
  await_turn();
  StreamLock lock(stream_mutex());
  await_copies(lock, handle);
  const auto stream = find_stream(lock, handle);
  CompletionRef done;
  const CUresult result = submit_locked(lock, handle, std::move(operation), &done);
  if (result != CUDA_SUCCESS || done == nullptr) return result;
  Context& context = *stream->context;
  if (others == Others::kHeldUp) context.holding_copies.push_back(done);
  if (others != Others::kGoOn) context.copies_before_events.push_back(done);
  wait_for(lock, done);
  std::erase(context.holding_copies, done);
  std::erase(context.copies_before_events, done);
  return current_context()->sticky.load();
}

void complete(const StreamLock&, const CompletionRef& completion) {
  completion->done = true;
  completion->when = std::chrono::steady_clock::now();
  for (Stream* stream : completion->waiting) stream->wake.notify_one();
  completion->waiting.clear();
  streams().host.notify_all();
}

void wait_for(StreamLock& lock, const CompletionRef& completion) {
  while (!completion->done) streams().host.wait(lock);
}

std::vector<CompletionRef> unfinished(const StreamLock& lock, const Stream& stream) {
  std::vector<CompletionRef> open;
  if (stream.last && !stream.last->done) open.push_back(stream.last);
  if (!stream.legacy) return open;
  for (const auto& other : all_streams(lock)) {
    if (other->context == stream.context && other->blocking() && other->last &&
        !other->last->done) {
      open.push_back(other->last);
    }
  }
  return open;
}

void synchronize_context(StreamLock& lock, Context* context) {
  std::vector<CompletionRef> open;
  for (const auto& stream : all_streams(lock)) {
    if (stream->context == context && stream->last && !stream->last->done) {
      open.push_back(stream->last);
    }
  }
  for (const auto& completion : open) wait_for(lock, completion);
}

void synchronize_context(Context* context) {
  StreamLock lock(stream_mutex());
  synchronize_context(lock, context);
}

void destroy_streams_of(Context* context) {
  Streams& all = streams();
  const StreamLock lock(all.mutex);
  for (const auto& stream : all_streams(lock)) {
    if (stream->context == context) destroy_locked(stream);
  }
  std::erase_if(all.streams, [&](const auto& entry) { return entry.second->context == context; });
  std::erase_if(all.legacy_streams, [&](const auto& stream) { return stream->context == context; });
}

void wait_for_running_work() {
  Streams& all = streams();
  StreamLock lock(all.mutex);
  std::vector<std::uint64_t> now;
  for (const auto& [ticket, unused] : all.running) now.push_back(ticket);
  for (const std::uint64_t ticket : now) {
    while (all.running.contains(ticket)) all.host.wait(lock);
  }
}

CUresult api::cuStreamCreateWithPriority(CUstream* stream, unsigned flags, int priority) {
  if (stream == nullptr || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  Streams& all = streams();
  const StreamLock lock(all.mutex);
  auto made = make_stream_locked(all, current_context(), flags, priority);
  *stream = stream_handle(*made);
  all.streams[*stream] = std::move(made);
  return CUDA_SUCCESS;
}

CUresult api::cuStreamCreate(CUstream* stream, unsigned flags) {
  return api::cuStreamCreateWithPriority(stream, flags, 0);
}

CUresult api::cuStreamDestroy_v2(CUstream handle) {
  Streams& all = streams();
  StreamLock lock(all.mutex);
  const auto found = all.streams.find(handle);
  if (found == all.streams.end()) return CUDA_ERROR_INVALID_HANDLE;
  const auto stream = found->second;
  if (stream->capture != nullptr) leave_capture(lock, *stream);
  destroy_locked(stream);
  all.streams.erase(found);
  return CUDA_SUCCESS;
}

}  // namespace kvshim::simulator
