// What this process gives the neighbours on one GPU, and what it says to their needs.
#pragma once

#include <array>
#include <cstdint>

#include "preload/giving.h"
#include "segment/layout.h"
#include "segment/owner.h"
#include "vmm/pressure.h"

namespace kvshim::preload {

/// For the releasing thread alone.
class Gifts {
 public:
  /// Bytes to be given now, by the rules of giving.h. Who is at work or has nothing says so.
  std::uint64_t asked_of(segment::Owner& owner, const vmm::Giver& us,
                         std::int64_t priority) noexcept;
  /// Tells all who need something that it has begun: some times for each need, afterwards
  /// they wait as for somebody who says nothing.
  void begins(segment::Owner& owner) noexcept;
  /// Deals out what was freed, most urgent needs first; 0: a refusal, once for each need.
  void gave(segment::Owner& owner, std::uint64_t bytes) noexcept;

 private:
  /// To the last need of a record.
  struct Said {
    std::uint64_t claim = 0, serial = 0;
    std::uint64_t begun = 0;  // how often
    bool refused = false;
  };
  Said& said_to(const segment::NeighbourNeed& need) noexcept;

  std::array<Said, segment::kRecords> said_{};
};

}  // namespace kvshim::preload
