// GPU memory of this process that is no pool, as far as its allocations were seen: what
// a limit counts beside the pools.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

/// A plain allocation of the current context's device, from its admission to its end: meanwhile
/// it counts beside what there is, so that two threads don't both get the last of a limit.
/// For one thread; a lock at either end.
class PlainAdmission {
 public:
  PlainAdmission(CUdevice device, std::size_t bytes) noexcept : device_(device), bytes_(bytes) {}
  PlainAdmission(const PlainAdmission&) = delete;
  PlainAdmission& operator=(const PlainAdmission&) = delete;
  ~PlainAdmission();
  /// False, and nothing is changed, when with it and all that were admitted more than `most`
  /// bytes would be held.
  bool within(std::uint64_t most) noexcept;
  /// It succeeded: its memory is counted by its address from now on.
  void made(CUdeviceptr address) noexcept { address_ = address; }

 private:
  const CUdevice device_;
  const std::size_t bytes_;
  bool admitted_ = false;
  CUdeviceptr address_ = 0;
};
/// A plain allocation is being freed (an address that was never counted changes nothing). Any
/// thread; a hash table's time.
void uncount_plain(CUdeviceptr address) noexcept;
/// Of what has no address of its own (engine_memory.cpp): more or less of it.
void change_plain(CUdevice device, std::int64_t bytes) noexcept;
/// What a context takes along when it ends.
void uncount_plain_of(CUcontext context) noexcept;
/// Bytes of a device, with those that engine_memory.h counts. Not in it: what the driver
/// itself needs (contexts, modules, graphs) and managed memory.
std::uint64_t plain_bytes(CUdevice device) noexcept;
/// With those that were admitted and have not ended.
std::uint64_t plain_bytes_admitted(CUdevice device) noexcept;
void forget_plain_after_fork() noexcept;

}  // namespace kvshim::preload
