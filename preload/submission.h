// One submission of work that may touch pools: what it touches by device, the
// order in which threads and streams come, and the guards put in front. Internal
// to the gate.
#pragma once

#include <cuda.h>

#include <optional>
#include <span>
#include <vector>

#include "preload/gate.h"
#include "preload/runtime.h"
#include "vmm/mapping_look.h"

namespace kvshim::preload {

/// Between entering a device's gate and leaving it. At most one thread at a time
/// is inside, unless it had to give up waiting for another one: then its work is in no
/// order with the other's, and the device's memory is told so.
class Submission {
 public:
  explicit Submission(DeviceRuntime& device);
  ~Submission();
  /// Whether no other submission can be under way.
  bool alone() const { return locked_; }
  /// The same of all that the calling thread is in.
  static bool thread_is_alone() noexcept;
  Submission(const Submission&) = delete;
  Submission& operator=(const Submission&) = delete;

 private:
  DeviceRuntime& device_;
  bool locked_ = false;
};

struct Touched {
  DeviceRuntime* device = nullptr;
  std::vector<vmm::AbiRun> written;
  /// Read without anybody's word that only written slots are looked at.
  std::vector<vmm::AbiRun> read_anywhere;
};

/// What of a range that meets the pool lies in it. Garbage sizes, which the driver
/// will refuse, don't wrap around.
Access part_in(const PoolView& pool, const Access& range);

/// The pieces of the accesses by device: one in nearly every process. In the order
/// of the devices' numbers, in which all threads enter their gates.
std::vector<Touched> by_device(Runtime& runtime, std::span<const Access> accesses);

/// Launches what must run before the work of `stream`, and fills in its place.
/// Guards run on their pool's own GPU and in its context: for a stream of another
/// one on a stream of their own, ordered by events both ways. In a capture, which
/// they can't join, what they would make present stays so for good.
/// `guard`: of the first guard among all of the work. REQUIRES: a Submission.
CUresult put_in_front(DeviceRuntime& device, StreamRef stream, std::span<const vmm::AbiRun> written,
                      const vmm::LinearWrite* linear, StreamOrder::Place* place,
                      vmm::GuardPlace guard = vmm::GuardPlace::kFirst);
/// Marks what the reader behind it reads, if that is the device's. REQUIRES: put_in_front().
void mark_in_front(DeviceRuntime& device, StreamRef stream, const vmm::TableRead& read,
                   const StreamOrder::Place& place);
/// The same as put_in_front() on the device's own stream, told as submitted.
CUresult guard_on_own_stream(DeviceRuntime& device, std::span<const vmm::AbiRun> written,
                             vmm::GuardPlace guard);

/// The submission that this thread is making, for retry_over_holes(): which
/// ranges its work writes, and on which stream.
struct CurrentWork {
  CurrentWork(std::span<const Touched> ranges, std::optional<StreamRef> on);
  /// Before its guards are put in front: faults that failed until now are not theirs.
  void begins() noexcept;
  /// All that it touches; made at the first question.
  std::span<const vmm::AddressRange> addresses();

  std::span<const Touched> touched;
  std::optional<StreamRef> stream;  // asked whether it captures only where that matters
  bool pinned = false;
  std::uint64_t failed_faults = 0;  // of its devices, before it

  /// Null when the thread is in no submission.
  static CurrentWork* get() noexcept;

 private:
  std::vector<vmm::AddressRange> addresses_;
};

class CurrentWorkScope {
 public:
  explicit CurrentWorkScope(CurrentWork& now) noexcept;
  ~CurrentWorkScope();
  CurrentWorkScope(const CurrentWorkScope&) = delete;
  CurrentWorkScope& operator=(const CurrentWorkScope&) = delete;

 private:
  CurrentWork* before_;
};

}  // namespace kvshim::preload
