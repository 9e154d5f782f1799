// Which streams carry pool work, whether it has finished, and the order between
// streams: work that may touch pools is submitted in one total order per device,
// so that a guard's swap never makes a hole under another stream's work.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "preload/gate.h"
#include "vmm/driver.h"
#include "vmm/releaser.h"

namespace kvshim::preload {

/// Thread-safe. Recording an event and letting a stream wait for one wait themselves where
/// the stream's queue is full (10,000 pieces of work), perhaps until another thread has
/// made a call that comes here first: the mutex is held across neither, only across
/// queries and what a capture takes in. order() and submitted() are called by one thread
/// at a time (the gate's submission lock), but for those that gave up waiting for it.
class StreamOrder final : public vmm::Quiescence {
 public:
  explicit StreamOrder(const vmm::DriverApi& driver) : driver_(driver) {}

  /// What order() found out about the stream of a submission.
  struct Place {
    CUcontext context = nullptr;  // the stream's, not the calling thread's
    bool captured = false;        // the work becomes a node
    std::uint64_t capture = 0;    // the capture's id
  };

  /// Makes the stream wait for pool work that another stream (of the same
  /// capture, or none) has submitted before. At most two driver calls; none
  /// while one stream does all the work and nothing is captured. `alone`: the caller has
  /// the submission lock. Who hasn't must not touch the other stream, in whose full queue
  /// the thread that has it may be stuck: then there may be no order.
  CUresult order(StreamRef stream, Place* place, bool alone = true);
  /// Work was submitted to the stream, at the place where order() put it.
  void submitted(StreamRef stream, const Place& place);
  /// For work that one call starts in several streams, each of which has been ordered:
  /// all of it comes behind what was submitted to any of them, in no order of its own;
  /// what is submitted afterwards to any stream comes behind all of it.
  CUresult order_together(std::span<const StreamRef> streams, bool alone = true);
  void submitted_together(std::span<const StreamRef> streams, bool alone = true);
  /// Whether all submitted work has finished: queries only. REQUIRES: the
  /// calling thread's capture mode is relaxed.
  bool finished() override;
  /// The same, but for the work of which lost() tells.
  bool all_but_lost_finished();

  // Life of streams, in the thread that makes the call, before it.

  /// False when the end of the stream's unfinished work can't be told from now
  /// on: nothing counts as finished until context_finished(). `about_to_lose` is called
  /// before that, without the mutex: only after it does other work come in no order with
  /// this stream's. Waits, for 10 s at most, until other threads' calls on the stream have
  /// returned.
  bool before_destroy(
      CUstream stream, const std::function<void()>& about_to_lose = [] {});
  /// Also before a stream waits for an event (it may join a capture by that).
  void before_capture(StreamRef stream);
  /// Also of streams that carry no pool work; `stream` as in the gate's before_wait().
  void before_wait(std::optional<StreamRef> stream);
  void before_context_destroy(CUcontext context);

  /// Destroyed streams whose work nothing can be asked about: how many there were
  /// in the process so far, and how many of this device still hold up releases.
  static std::uint64_t lost_so_far() noexcept { return lost_so_far_.load(); }
  std::uint64_t lost() const noexcept { return lost_.load(std::memory_order_relaxed); }
  /// All work of the context that was submitted when lost_so_far() was
  /// `lost_before` has finished.
  void context_finished(CUcontext context, std::uint64_t lost_before);

  /// Whether the stream captures now; the capture's id if so. Without a driver
  /// call while no capture is under way in the process.
  bool capturing(StreamRef stream, std::uint64_t* id) const;

 private:
  struct Stream {
    CUstream handle = nullptr;  // means the same through every entry point
    CUcontext context = nullptr;
    std::uint64_t thread = 0;  // of a per-thread default stream, else 0
    CUevent event = nullptr;
    bool event_is_newest = false;  // recorded after the last submission
    bool unfinished = false;
    bool dead = false;                // the handle must not be used any more
    std::uint64_t lost = 0;           // which of the lost ones, from 1; 0: not lost
    std::uint64_t submissions = 0;    // how many there were
    unsigned users = 0;               // calls under way, without the mutex
    unsigned waiters = 0;             // for these calls
    CUresult failure = CUDA_SUCCESS;  // of the last attempt to record the event
  };
  using Lock = std::unique_lock<std::mutex>;
  /// Where the newest work of a capture is.
  struct CaptureEnd {
    CUstream handle = nullptr;
    std::uint64_t thread = 0;
    CUevent event = nullptr;  // recorded by the only thread that can name the stream
    CUcontext context = nullptr;
  };
  /// An event that is nobody's now.
  struct Spare {
    CUcontext context = nullptr;
    CUevent event = nullptr;
  };

  Stream* find(StreamRef stream, bool make);
  CUcontext context_of(CUstream handle) const;
  CUresult have_event(Lock& lock, CUcontext context, CUevent* event);
  CUresult record(Lock& lock, Stream& stream) { return record(lock, stream, stream.handle); }
  CUresult record(Lock& lock, Stream& stream, CUstream on);
  bool record_end(Lock& lock, Stream& stream);
  static bool is_left_alone(Lock& lock, Stream& stream);
  static bool may_come_after(const Stream& stream, StreamRef other);
  CUresult order_in_capture(Lock& lock, const Stream& now, std::uint64_t capture);
  void submitted_in_capture(Lock& lock, const Stream& now, std::uint64_t capture);
  void forget(const CaptureEnd& end);
  bool finished_locked(Stream& stream);

  const vmm::DriverApi& driver_;
  std::mutex mutex_;
  std::list<Stream> streams_;  // a handful; addresses are stable
  Stream* last_ = nullptr;
  unsigned events_ahead_ = 0;                     // submissions that are followed by an event
  std::map<std::uint64_t, CaptureEnd> captures_;  // by capture id
  std::vector<Spare> spares_;
  static std::atomic<std::uint64_t> lost_so_far_;
  std::atomic<std::uint64_t> lost_{0};
};

}  // namespace kvshim::preload
