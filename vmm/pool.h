// One recognised allocation as an ordered map of extents. Pure bookkeeping:
// no driver call is made here.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "vmm/extent.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// Pieces of [0, granules) or of an extent: offset (granules) and order.
struct Piece {
  std::uint32_t offset = 0;
  std::uint8_t order = 0;
  friend bool operator==(const Piece&, const Piece&) = default;
};

/// Cuts [offset, offset + count) into the fewest aligned pieces of at most
/// kMaxOrder. `base` aligns them: piece addresses are multiples of their size
/// counted from the arena's start.
std::vector<Piece> cut_into_pieces(GranuleIndex base, std::uint32_t offset, std::uint32_t count);

/// The pieces that remain of extent `whole` when the aligned piece `taken`
/// inside it is cut out (buddies, in address order).
std::vector<Piece> buddies_around(const Piece& whole, const Piece& taken, GranuleIndex base);

/// The aligned piece of `order` that holds granule `offset`.
Piece aligned_piece(GranuleIndex base, std::uint32_t offset, std::uint8_t order);

class Pool {
 public:
  using Extents = std::map<std::uint32_t, Extent>;  // by offset in granules

  Pool(std::uint64_t pool_id, GranuleIndex first_granule, std::uint32_t granule_count,
       std::size_t requested_bytes)
      : id(pool_id),
        first(first_granule),
        granules(granule_count),
        bytes(requested_bytes),
        pins_(granule_count, 0) {}

  /// The extent that holds granule `offset` (< granules).
  Extents::iterator extent_at(std::uint32_t offset);

  bool pinned(std::uint32_t offset, std::uint32_t count) const;
  void pin(std::uint32_t offset, std::uint32_t count);
  void unpin(std::uint32_t offset, std::uint32_t count);

  /// Extents cover the pool without gap or overlap, are aligned, and hold a
  /// handle exactly when present. Empty string when all holds.
  std::string broken_invariant() const;

  const std::uint64_t id;
  const GranuleIndex first;  // in the arena
  const std::uint32_t granules;
  const std::size_t bytes;  // as asked for
  std::size_t group = 0;    // index of the sibling group
  Extents extents;

 private:
  std::vector<std::uint16_t> pins_;  // per granule
};

}  // namespace kvshim::vmm
