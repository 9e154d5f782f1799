#include "vmm/fronts.h"

#include <algorithm>

namespace kvshim::vmm {
namespace {

constexpr std::size_t kMostFronts = 8;
// K and V advance together: what both have taken and not yet used counts.
constexpr std::size_t kNewest = 2;
// The promise to the user (README) is 1.25 times what was written, two rows and
// 64 MiB; half of those are left to what else an engine allocates in a burst.
constexpr std::uint64_t kAlwaysAllowed = std::uint64_t{32} << 20;

}  // namespace

// What the newest fronts hold beyond what is known to be written: the piece that
// is being written, and the one that was made ahead of it.
std::uint64_t Fronts::unwritten_granules(const Front* except) const {
  std::uint64_t sum = 0;
  const std::size_t first = fronts_.size() > kNewest ? fronts_.size() - kNewest : 0;
  for (std::size_t i = first; i < fronts_.size(); ++i) {
    const Front& front = fronts_[i];
    if (&front != except) sum += order_granules(front.order);
    if (front.ahead) sum += order_granules(*front.ahead);
  }
  return sum;
}

bool Fronts::allowed(std::uint64_t granules, std::uint64_t unwritten, const ReadAheadLimits& limits,
                     const GroupHolding& holding) const {
  const std::uint64_t row = kGranuleBytes * holding.pools;
  const std::uint64_t written = holding.resident - std::min(holding.resident, unwritten * row);
  return static_cast<double>(holding.resident + granules * row) <=
         (1.0 + limits.share) * static_cast<double>(written) +
             static_cast<double>(2 * row + kAlwaysAllowed);
}

std::uint8_t Fronts::order_for(std::uint32_t offset, const ReadAheadLimits& limits,
                               const GroupHolding& holding) const {
  const auto front =
      std::find_if(fronts_.begin(), fronts_.end(), [&](const Front& f) { return f.end == offset; });
  if (front == fronts_.end()) return 0;
  auto order = static_cast<std::uint8_t>(std::min<unsigned>(front->order + 1u, kMaxOrder));
  // The piece before this one is full: its successor is asked for.
  const std::uint64_t unwritten = unwritten_granules(&*front);
  while (order > 0 && (order_bytes(order) > limits.largest ||
                       !allowed(order_granules(order), unwritten, limits, holding))) {
    --order;
  }
  return order;
}

void Fronts::advance(const Piece& piece) {
  const auto expected = std::find_if(fronts_.begin(), fronts_.end(),
                                     [&](const Front& f) { return f.end == piece.offset; });
  const bool in_sequence = expected != fronts_.end();
  if (in_sequence) fronts_.erase(expected);
  const std::uint32_t end = piece.offset + order_granules(piece.order);
  std::erase_if(fronts_, [&](const Front& f) { return f.end == end; });
  if (fronts_.size() == kMostFronts) fronts_.erase(fronts_.begin());
  fronts_.push_back({end, piece.order, in_sequence, false, false, std::nullopt});
}

bool Fronts::advance_if_expected(const Piece& piece) {
  if (std::none_of(fronts_.begin(), fronts_.end(),
                   [&](const Front& f) { return f.end == piece.offset; })) {
    return false;
  }
  advance(piece);
  return true;
}

void Fronts::reset_sequences() {
  for (Front& front : fronts_) front = Front{front.end, 0, false, false, false, std::nullopt};
}

void Fronts::step_back(const Piece& piece, std::uint32_t end) {
  const std::uint32_t passed = piece.offset + order_granules(piece.order);
  const auto front =
      std::find_if(fronts_.begin(), fronts_.end(), [&](const Front& f) { return f.end == passed; });
  if (front == fronts_.end() || end == passed) return;
  *front = Front{end, 0, false, false, false, std::nullopt};
  const auto other = std::find_if(fronts_.begin(), fronts_.end(),
                                  [&](const Front& f) { return f.end == end && &f != &*front; });
  if (other != fronts_.end()) fronts_.erase(other);
}

bool Fronts::near_newest(const Piece& block) const {
  const std::uint32_t end = block.offset + order_granules(block.order);
  const std::size_t first = fronts_.size() > kNewest ? fronts_.size() - kNewest : 0;
  return std::any_of(fronts_.begin() + static_cast<std::ptrdiff_t>(first), fronts_.end(),
                     [&](const Front& f) { return f.end >= block.offset && f.end <= end; });
}

std::optional<Piece> Fronts::ahead(const ReadAheadLimits& limits, const GroupHolding& holding) {
  const std::size_t first = fronts_.size() > kNewest ? fronts_.size() - kNewest : 0;
  for (std::size_t i = first; i < fronts_.size(); ++i) {
    Front& front = fronts_[i];
    if (!front.in_sequence || front.done) continue;
    if (!front.decided) {
      front.decided = true;
      const std::uint64_t unwritten = unwritten_granules(nullptr);
      for (int order = std::min<int>(front.order + 1, kMaxOrder); order >= 0 && !front.ahead;
           --order) {
        const auto candidate = static_cast<std::uint8_t>(order);
        if (order_bytes(candidate) <= limits.largest &&
            allowed(order_granules(candidate), unwritten, limits, holding)) {
          front.ahead = candidate;
        }
      }
    }
    if (front.ahead) return Piece{front.end, *front.ahead};
    front.done = true;
  }
  return std::nullopt;
}

void Fronts::ahead_done(std::uint32_t offset) {
  for (Front& front : fronts_) {
    if (front.end == offset) front.done = true;
  }
}

}  // namespace kvshim::vmm
