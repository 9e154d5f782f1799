// The thread that answers guards.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>

#include "vmm/device_memory.h"
#include "vmm/stop_flag.h"
#include "vmm/submission_gate.h"

namespace kvshim::vmm {

/// Polls the channel while guarded work is unfinished and sleeps otherwise.
/// It never touches a stream: stream work can be stuck behind another thread's
/// cuMemFree, virtual memory calls are not (facts). The thread is detached and
/// serves until the process ends or the driver is gone: a guard that waits at
/// exit would hold the exit up.
class FaultServer {
 public:
  FaultServer(const DriverApi& driver, DeviceMemory& memory, SubmissionGate& gate)
      : driver_(driver), memory_(memory), gate_(gate) {}
  void start();
  /// Ends the thread before the context (and with it the channel) goes away.
  void stop();
  /// Everything submitted up to `epoch` has finished: the server may sleep.
  void all_finished(std::uint64_t epoch) noexcept { finished_epoch_.store(epoch); }
  std::uint64_t finished_epoch() const noexcept { return finished_epoch_.load(); }

 private:
  void run();
  void serve(std::uint32_t ticket);
  void tell_of_slow_fault(const FaultAnswer& answer, std::chrono::microseconds spent);
  void wait_for_room(std::span<const AbiRun> wanted, bool rows);
  const DriverApi& driver_;
  DeviceMemory& memory_;
  SubmissionGate& gate_;
  std::atomic<std::uint64_t> finished_epoch_{0};
  std::chrono::steady_clock::time_point answered_;  // the serving thread's
  StopFlag stop_;
};

/// Tells a guard to give up after `patience` of its own ticks without an
/// answer. Counting own ticks makes a stopped process (SIGSTOP, a debugger)
/// survive its pause.
class GuardWatchdog {
 public:
  GuardWatchdog(DeviceMemory& memory, std::uint64_t patience_milliseconds)
      : memory_(memory), patience_(patience_milliseconds) {}
  void start();
  void stop() { stop_.request_and_wait(); }

 private:
  void run();
  DeviceMemory& memory_;
  const std::uint64_t patience_;
  StopFlag stop_;
};

}  // namespace kvshim::vmm
