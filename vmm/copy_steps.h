// Copies that go one after the other, each when it is let go.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "vmm/driver.h"
#include "vmm/guard_abi.h"

namespace kvshim::vmm {

/// Several copies on one stream, of which each but the first one waits there until it is let go.
///
/// Opening a mapping takes its turn on the copy engine that copies to host memory. Beside one
/// copy the call's own work is done meanwhile; but each of several calls beside several copies
/// waits until all of them have ended, or for a millisecond. A copy that waits in its stream is
/// in nobody's way, so with one let go for each call, calls and copies run side by side
/// (measured: docs/results/parking.md).
///
/// Where the driver has no waits in streams the copies go as they are submitted.
class CopySteps {
 public:
  /// `word`: zero, pinned host memory that lives as long as this, at `word_on_device` for the GPU.
  CopySteps(const DriverApi& driver, CUstream stream, std::uint32_t* word,
            CUdeviceptr word_on_device)
      : driver_(driver), stream_(stream), word_(*word), word_on_device_(word_on_device) {}

  /// Behind what is on the stream already. False: the driver has refused a copy; those before it
  /// are on the stream. REQUIRES: all that was submitted before has been let go. One thread at a
  /// time; the context is current. May wait in the driver as everything that submits work may.
  bool submit(std::span<const AbiCopy> copies);
  /// Without waits between them: opening a mapping doesn't wait for copies from host memory. Else
  /// as submit().
  bool submit_at_once(std::span<const AbiCopy> copies);
  /// One more of them, if any waits. Doesn't call the driver. Any thread.
  void let_next_go() noexcept;
  /// All of them. To be called before the stream is waited for. As let_next_go().
  void let_all_go() noexcept;
  /// Lets go what has waited since the call before. Whoever lets copies go holds locks, and a
  /// thread that waits in the driver for all of the context's work could hold one of them up.
  /// Called in long intervals by one thread, which itself waits for nothing.
  void let_go_what_was_forgotten() noexcept;

 private:
  static bool is_before(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(a - b) < 0;
  }

  bool copy_now(const AbiCopy& copy) const;

  const DriverApi& driver_;
  const CUstream stream_;
  std::atomic_ref<std::uint32_t> word_;  // the last wait that has ended
  const CUdeviceptr word_on_device_;
  std::atomic<std::uint32_t> submitted_{0};  // the last wait that is on the stream
  std::uint32_t looked_at_ = 0;              // it, when it was looked for forgotten ones
  bool waits_ = true;                        // the driver has waits in streams
};

}  // namespace kvshim::vmm
