// Two figures of which one changes the other.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kvshim::vmm {

/// What others' pools hold, as it was while `read` read the driver's free memory: it is told before
/// and after, and all is done again when it has changed in between. When it always does, the larger
/// one: an engine that starts must not be told less than it would be alone. `read` gives a
/// CUresult. Any thread; each try costs one call of either.
template <class Read, class Elsewhere>
auto read_beside(const Read& read, const Elsewhere& elsewhere, std::uint64_t* held_elsewhere) {
  constexpr int kTries = 8;
  std::uint64_t before = elsewhere();
  for (int i = 1;; ++i) {
    const auto result = read();
    const std::uint64_t after = elsewhere();
    *held_elsewhere = std::max(before, after);
    if (before == after || i == kTries) return result;
    before = after;
  }
}

}  // namespace kvshim::vmm
