#include "vmm/pool.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <iterator>

namespace kvshim::vmm {

std::vector<Piece> cut_into_pieces(GranuleIndex base, std::uint32_t offset, std::uint32_t count) {
  std::vector<Piece> pieces;
  while (count != 0) {
    const std::uint32_t position = base + offset;
    const unsigned aligned =
        position == 0 ? kMaxOrder : static_cast<unsigned>(std::countr_zero(position));
    const unsigned fitting = static_cast<unsigned>(std::bit_width(count)) - 1;
    const unsigned order = std::min({aligned, fitting, kMaxOrder});
    pieces.push_back({offset, static_cast<std::uint8_t>(order)});
    offset += order_granules(order);
    count -= order_granules(order);
  }
  return pieces;
}

Piece aligned_piece(GranuleIndex base, std::uint32_t offset, std::uint8_t order) {
  const std::uint32_t position = (base + offset) & ~(order_granules(order) - 1);
  return {position - base, order};
}

std::vector<Piece> buddies_around(const Piece& whole, const Piece& taken, GranuleIndex base) {
  assert(taken.order <= whole.order);
  std::vector<Piece> before = cut_into_pieces(base, whole.offset, taken.offset - whole.offset);
  const std::uint32_t end = taken.offset + order_granules(taken.order);
  const std::vector<Piece> after =
      cut_into_pieces(base, end, whole.offset + order_granules(whole.order) - end);
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

Pool::Extents::iterator Pool::extent_at(std::uint32_t offset) {
  assert(offset < granules);
  auto it = extents.upper_bound(offset);
  assert(it != extents.begin());
  return std::prev(it);
}

bool Pool::pinned(std::uint32_t offset, std::uint32_t count) const {
  return std::any_of(pins_.begin() + offset, pins_.begin() + offset + count,
                     [](std::uint16_t pins) { return pins != 0; });
}

void Pool::pin(std::uint32_t offset, std::uint32_t count) {
  // Saturating: a count that reached its end stays there, pinned for good.
  for (std::uint32_t i = offset; i < offset + count; ++i) {
    if (pins_[i] != UINT16_MAX) ++pins_[i];
  }
}

void Pool::unpin(std::uint32_t offset, std::uint32_t count) {
  for (std::uint32_t i = offset; i < offset + count; ++i) {
    assert(pins_[i] != 0);
    if (pins_[i] != UINT16_MAX) --pins_[i];
  }
}

std::string Pool::broken_invariant() const {
  std::uint32_t expected = 0;
  for (const auto& [offset, extent] : extents) {
    const std::string where = "pool " + std::to_string(id) + " granule " + std::to_string(offset);
    if (offset != expected) return where + ": gap or overlap";
    if (extent.order > kMaxOrder) return where + ": order too large";
    if ((first + offset) % order_granules(extent.order) != 0) return where + ": not aligned";
    if (extent.present() != (extent.handle != 0)) return where + ": state and handle disagree";
    if ((extent.watched_tick != 0 && extent.state != ExtentState::kResident) ||
        (extent.cold && extent.state != ExtentState::kParked) ||
        (extent.move != 0 && !extent.present())) {
      return where + ": watched, cold or on its way in another state";
    }
    expected += order_granules(extent.order);
  }
  if (expected != granules) return "pool " + std::to_string(id) + ": extents end early or late";
  return {};
}

}  // namespace kvshim::vmm
