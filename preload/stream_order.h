// Which streams carry pool work, whether it has finished, and the order between
// streams: work that may touch pools is submitted in one total order per device,
// so that a guard's swap never makes a hole under another stream's work.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <list>
#include <map>
#include <mutex>

#include "preload/gate.h"
#include "vmm/driver.h"
#include "vmm/releaser.h"

namespace kvshim::preload {

/// Thread-safe; its mutex is held only across calls that don't wait for the
/// GPU (event record, queries, stream wait). order() and submitted() are called
/// by one thread at a time (the gate's submission lock).
class StreamOrder final : public vmm::Quiescence {
 public:
  explicit StreamOrder(const vmm::DriverApi& driver) : driver_(driver) {}

  /// Makes the stream wait for pool work that another stream (of the same
  /// capture, or none) has submitted before. At most two driver calls; none
  /// while one stream does all the work.
  CUresult order(StreamRef stream);
  /// Work was submitted to the stream (not captured).
  void submitted(StreamRef stream);
  /// Whether all submitted work has finished: queries only. REQUIRES: the
  /// calling thread's capture mode is relaxed.
  bool finished() override;

  // Life of streams, in the thread that makes the call, before it.
  void before_destroy(CUstream stream);
  /// Also before a stream waits for an event (it may join a capture by that).
  void before_capture(StreamRef stream);
  void before_context_destroy(CUcontext context);

  /// Whether the stream captures now; the capture's id if so.
  bool capturing(StreamRef stream, std::uint64_t* id) const;

 private:
  struct Stream {
    CUstream handle = nullptr;     // means the same through every entry point
    CUcontext context = nullptr;
    std::uint64_t thread = 0;      // of a per-thread default stream, else 0
    CUevent event = nullptr;
    bool event_is_newest = false;  // recorded after the last submission
    bool unfinished = false;
    bool dead = false;             // the handle must not be used any more
  };

  Stream* find(StreamRef stream, bool make);
  CUresult record(Stream& stream);
  bool finished_locked(Stream& stream);

  const vmm::DriverApi& driver_;
  std::mutex mutex_;
  std::list<Stream> streams_;  // a handful; addresses are stable
  Stream* last_ = nullptr;
  std::map<std::uint64_t, CUstream> last_in_capture_;  // by capture id
};

}  // namespace kvshim::preload
