// What this process gives the neighbours on one GPU, and what it says to their needs.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "preload/giving.h"
#include "segment/layout.h"
#include "segment/owner.h"
#include "vmm/pressure.h"

namespace kvshim::preload {

/// Thread-safe; its mutex is held for microseconds.
class Gifts {
 public:
  /// Bytes to be given now, by the rules of giving.h. Who is at work or has nothing says so.
  /// For a need of a pool no more than was lacking when it was seen first: what is free is
  /// told late, when others take and give at the same time, and whoever lacks more asks
  /// again. (An engine's own allocation asks once.)
  std::uint64_t asked_of(segment::Owner& owner, const vmm::Giver& us,
                         std::int64_t priority) noexcept;
  /// Bytes that the others need beyond what is free, whoever gives them.
  static std::uint64_t lacked_by(const segment::Owner& owner, std::uint64_t gpu_free,
                                 std::uint64_t floor) noexcept;
  /// Tells all who need something that it has begun: some times for each need, afterwards
  /// they wait as for somebody who says nothing.
  void begins(segment::Owner& owner) noexcept;
  /// Tells those who have come to need something since then.
  void goes_on(segment::Owner& owner);
  /// Deals out what was freed, most urgent needs first; 0: a refusal, once for each need.
  void gave(segment::Owner& owner, std::uint64_t bytes) noexcept;

 private:
  /// To the last need of a record.
  struct Said {
    std::uint64_t claim = 0, serial = 0;
    std::uint64_t begun = 0;  // how often
    bool refused = false;
    bool looked = false;       // something was lacking when it was looked at:
    std::uint64_t owed = 0;    // so much, by the word of that moment
    std::uint64_t before = 0;  // answers until then
    std::uint64_t dealt = 0;   // by us
  };
  std::uint64_t still_owed(const segment::NeighbourNeed& need, std::uint64_t lacking) noexcept;
  Said& said_to(const segment::NeighbourNeed& need) noexcept;

  std::mutex mutex_;
  std::array<Said, segment::kRecords> said_{};
};

}  // namespace kvshim::preload
