// This process among the others that share its GPUs: one record in the shared
// segment of each GPU that has (or had) pools.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "config/options.h"
#include "segment/owner.h"

namespace kvshim::preload {

class Runtime;

/// One pass of the housekeeping thread: joins the segments of devices that have
/// pools by now, checks and publishes. Some 10 us a device; figures at most
/// every 100 ms, and less often where collecting them costs more than 0.5 % of
/// the time. A segment that can't be joined is one warning (and one more when
/// the reason changes); it is tried again every 10 s. `status_file`: path of the
/// status file, or empty.
void update_memberships(Runtime& runtime, const std::string& status_file) noexcept;

/// The membership of a device, for who asks neighbours for memory or answers
/// them; null until the device's first pool is some 100 ms old, when the option
/// `segment` is off, or when there is no segment. Stays valid until the process
/// ends. Any thread; one load.
segment::Owner* membership_of(CUdevice device) noexcept;

/// Makes the process a member on a device where it has no pool (yet), with the next pass
/// of the housekeeping thread. Any thread.
void want_membership(CUdevice device) noexcept;

/// The device's name in the segment, from the driver; empty when it doesn't tell.
std::string uuid_of(CUdevice device);

/// What limits the process until somebody says otherwise, bytes (0: nothing): the option
/// `limit`, and under MPS the client's limit, whichever is less. `total`: of the GPU.
std::uint64_t limit_at_start(const config::Options& options, CUdevice device, std::uint64_t total);

/// What the process goes by since a control was obeyed: published with the next
/// figures, and so a tool learns that its word was heard. Any thread.
struct InForce {
  std::uint64_t limit = 0;    // bytes, 0: none
  std::uint64_t reserve = 0;  // bytes
  std::int64_t priority = 0;
  bool paused = false;
  std::uint64_t control_generation = 0;  // from Owner::control()
};
void set_in_force(CUdevice device, const InForce& in_force) noexcept;

/// At exit: the records are free afterwards. Makes no driver call
/// (I8), takes locks for microseconds. Idempotent.
void end_memberships() noexcept;
/// In a forked child: the locks are the parent's. Async-signal-safe.
void abandon_memberships_after_fork() noexcept;

}  // namespace kvshim::preload
