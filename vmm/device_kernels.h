// The mechanism's own GPU side on one device: kernels, residency bitmap,
// channel, stream.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "vmm/arena.h"
#include "vmm/copy_steps.h"
#include "vmm/driver.h"
#include "vmm/guard_abi.h"

namespace kvshim::vmm {

/// Among the guards of one piece of work.
enum class GuardPlace : std::uint8_t { kFirst, kBehindAnother };

class DeviceKernels {
 public:
  static constexpr std::uint32_t kScanCapacity = 8192;

  /// Loads the code, allocates bitmap and channel, launches every kernel once
  /// (a first launch later could need to load code while a guard waits, which
  /// would hang). `context` must be current. Null with `*why` on failure;
  /// nothing stays allocated then. Waits for its own launches only.
  static std::unique_ptr<DeviceKernels> create(const DriverApi& driver, const Arena& arena,
                                               CUdevice device, const char* ptx, std::string* why);
  ~DeviceKernels();  // only for failed creation and tests; otherwise leaked

  /// From now on every launch is refused with CONTEXT_IS_DESTROYED, and those that threads are
  /// in have returned; false when one of them is still in the driver after `patience`. Any
  /// thread.
  bool refuse_launches(std::chrono::milliseconds patience);
  /// For the end, when no thread answers any more: a guard that asks after all (a graph that
  /// another thread launched meanwhile has some) gives up instead of waiting for ever, and the
  /// destruction of the context for it. REQUIRES: the context lives.
  void nobody_answers();
  /// Guards don't wait: they were told to give up, or nobody answers any more.
  bool guards_give_up() const;
  /// Once the context has been destroyed, and with it the stream, the pinned memory and
  /// everything that could still read or write the bitmap: guards run in this context only,
  /// nodes of graphs, too. Releases what outlives a context: the bitmap's memory, its addresses,
  /// the code. No context need be current. Nothing happens before refuse_launches(), or while
  /// some thread is still in a launch. One thread at a time.
  void context_ended();

  /// Guards on a stream, in order before what is launched next. `place`: whether the same
  /// work has another guard in front of this one, on whatever stream. Any thread.
  CUresult launch_linear_guard(CUstream stream, const LinearWrite& write,
                               GuardPlace place = GuardPlace::kFirst) const;
  CUresult launch_fixed_guard(CUstream stream, std::span<const AbiRun> runs,
                              GuardPlace place = GuardPlace::kFirst) const;

  /// In front of a reader on its stream. `asked` as in MarkParams. Any thread.
  CUresult launch_mark(CUstream stream, const TableRead& read, std::uint32_t asked) const;
  MarkChannel* mark_channel() const { return mark_channel_; }
  /// The releasing thread's, on stream(): when it has finished, marks_taken() holds the
  /// marks set since the last time, one bit for each granule of the arena.
  CUresult launch_take();
  std::span<const std::uint32_t> marks_taken() const { return {marks_taken_, bitmap_words_}; }

  /// The releasing thread's work, on stream(). One user at a time. Ranges are
  /// given in scan_ranges(), results appear in scan_results() when finished.
  AbiCopy* scan_ranges() const { return scan_ranges_; }
  const std::uint32_t* scan_results() const { return scan_results_; }
  CUresult launch_scan(std::uint32_t count);
  /// Clears residency bits of the runs (at most kScanCapacity). Each user has a
  /// buffer of its own, which is free again when its launch has finished.
  enum class ClearUser { kRelease, kAllocation };
  CUresult launch_clear(std::span<const AbiRun> runs, ClearUser user = ClearUser::kRelease);
  /// The device's own non-blocking stream.
  CUstream stream() const { return stream_; }
  /// Copies on stream().
  CopySteps& copy_steps() { return *copy_steps_; }

  GuardChannel* channel() const { return channel_; }
  /// Device address of the bitmap: readable by the host on the simulator only.
  const std::uint32_t* bitmap() const { return context_.present; }

 private:
  static std::uint32_t behind(GuardPlace place) {
    return place == GuardPlace::kBehindAnother ? kBehindFlag : 0;
  }
  explicit DeviceKernels(const DriverApi& driver) : driver_(driver) {}
  CUresult set_up(const Arena& arena, CUdevice device, const char* ptx, std::string* why);
  CUresult launch(CUkernel kernel, unsigned grid_x, unsigned grid_y, unsigned threads,
                  CUstream stream, void* params) const;
  CUresult wait_for_stream(std::chrono::seconds most) const;
  void release_state();

  const DriverApi& driver_;
  CUlibrary library_ = nullptr;
  CUkernel linear_ = nullptr, fixed_ = nullptr, scan_ = nullptr, clear_ = nullptr;
  CUkernel mark_ = nullptr, take_ = nullptr;
  CUstream stream_ = nullptr;
  CUdeviceptr state_ = 0;  // bitmaps and lock
  bool state_mapped_ = false;
  std::size_t state_bytes_ = 0;
  CUmemGenericAllocationHandle state_handle_ = 0;
  GuardChannel* channel_ = nullptr;
  AbiCopy* scan_ranges_ = nullptr;
  std::uint32_t* scan_results_ = nullptr;
  AbiRun* clear_runs_ = nullptr;  // kScanCapacity for each ClearUser
  MarkChannel* mark_channel_ = nullptr;
  MarkChannel* mark_channel_on_device_ = nullptr;
  std::uint32_t* marks_ = nullptr;        // device memory
  std::uint32_t* marks_taken_ = nullptr;  // pinned
  std::size_t bitmap_words_ = 0;
  std::uint32_t* copy_word_ = nullptr;  // pinned
  std::optional<CopySteps> copy_steps_;
  GuardContext context_{};
  // A launcher counts itself and then looks whether it is refused; refuse_launches() does
  // both the other way round.
  mutable std::atomic<std::uint32_t> launching_{0};
  std::atomic<bool> refused_{false};
  std::atomic<bool> context_ended_{false};
};

}  // namespace kvshim::vmm
