// What a group's limit leaves each of its members: who asks for how much. That the sum stays
// within the limit is the segment's business (segment/owner_quota.cpp).
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>
#include <vector>

#include "segment/owner.h"

namespace kvshim::preload {

struct DeviceRuntime;

/// A member of a group, bytes.
struct QuotaMember {
  std::uint64_t floor = 0;   // that it can't or needn't give back
  std::uint64_t demand = 0;  // that it would like to hold; at least the floor
};

/// What `members[index]` is to have of `limit`: nobody gets less than the others to satisfy
/// somebody's larger demand, nobody less than its floor; what nobody demands is dealt out
/// evenly. The shares' sum exceeds the limit only when the floors' does.
std::uint64_t fair_share(std::uint64_t limit, std::span<const QuotaMember> members,
                         std::size_t index) noexcept;

/// One pass of the thread that listens on `device`: `groups` are the words for the groups
/// that this process belongs to. Gives what the process may hold now by their limits (at
/// least 1), 0 when there is none: its pools are to go by it from now on.
std::uint64_t divide_group_quota(segment::Owner& owner, CUdevice index, DeviceRuntime* device,
                                 const std::vector<segment::Control>& groups);

/// Whether a group's limit is in force on the device. Any thread, one load.
bool group_quota_in_force(CUdevice index) noexcept;
/// Whether the engine may hold `total` bytes of memory that is no pool. Where its share
/// doesn't leave that much, the other members' pools come down for it and it is waited for,
/// a second at most (not in a capture). Any thread.
bool group_quota_admits(CUdevice index, std::uint64_t total) noexcept;
void forget_group_quota_after_fork() noexcept;

}  // namespace kvshim::preload
