// Where the sequences of faults of a sibling group stand, and how much may be
// made present ahead of them. Pure bookkeeping: no driver call is made here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "vmm/pool.h"
#include "vmm/units.h"

namespace kvshim::vmm {

struct ReadAheadLimits {
  std::uint64_t largest = order_bytes(kMaxOrder);  // bytes of one extent
  /// What may be present beyond what was written, as a share of that; besides it
  /// two rows and some MiB are always allowed.
  double share = 0.25;
};

/// What the group holds, when a decision is made.
struct GroupHolding {
  std::uint64_t resident = 0;  // bytes, of all groups: what the rule is about
  std::size_t pools = 0;
};

/// A front is the granule at which a sequence's next fault is expected. A writer
/// of K and V has two in each pool. Not thread-safe.
class Fronts {
 public:
  /// The order of the extent to make for a fault at `offset`, which is absent:
  /// larger when faults come in sequence and the limits allow it.
  std::uint8_t order_for(std::uint32_t offset, const ReadAheadLimits& limits,
                         const GroupHolding& holding) const;
  /// `piece` was asked for and is present now.
  void advance(const Piece& piece);
  /// The same for a piece that was present already; false, and nothing is done,
  /// when no front expected it.
  bool advance_if_expected(const Piece& piece);
  /// Idleness: the fronts stay, but nothing is taken ahead until faults come in
  /// sequence again.
  void reset_sequences();
  /// Of `piece`, which a front had passed as a whole, only what lies before `end` was written.
  void step_back(const Piece& piece, std::uint32_t end);
  /// Whether a block holds or touches one of the two newest fronts (K and V).
  bool near_newest(const Piece& block) const;

  /// A piece that should be made present before it is asked for: at a front that
  /// was reached in sequence, of the largest order that the limits allow. The same
  /// one until ahead_done(), then none until the front has moved.
  std::optional<Piece> ahead(const ReadAheadLimits& limits, const GroupHolding& holding);
  void ahead_done(std::uint32_t offset);

 private:
  struct Front {
    std::uint32_t end = 0;
    std::uint8_t order = 0;  // of the piece before `end`
    bool in_sequence = false;
    bool decided = false;  // about `ahead`
    bool done = false;     // `ahead` is made
    std::optional<std::uint8_t> ahead;
  };
  std::uint64_t unwritten_granules(const Front* except) const;
  bool allowed(std::uint64_t granules, std::uint64_t unwritten, const ReadAheadLimits& limits,
               const GroupHolding& holding) const;
  std::vector<Front> fronts_;  // newest last
};

}  // namespace kvshim::vmm
