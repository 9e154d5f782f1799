// What neighbours say to a need beside the bytes that they free for it.
#pragma once

#include <cstdint>

#include "segment/layout.h"

namespace kvshim::preload {

/// Answers are whole granules, so that the lowest bits of their sum can carry two counts:
/// how often somebody has begun to give, and how many have nothing (more).
struct AnswerWords {
  static constexpr std::uint64_t kWhole = std::uint64_t{1} << 21;
  static constexpr std::uint64_t kBegun = 1;
  static constexpr std::uint64_t kRefusal = std::uint64_t{1} << 11;
  /// How often one neighbour may say to one need that it has begun: more, from all of
  /// them together, would count as refusals.
  static constexpr std::uint64_t kMostBegun = (kRefusal / kBegun - 1) / (segment::kRecords - 1);

  explicit AnswerWords(std::uint64_t sum)
      : freed(sum - sum % kWhole),
        begun(sum % kRefusal / kBegun),
        refusals(sum % kWhole / kRefusal) {}

  std::uint64_t freed;     // bytes
  std::uint64_t begun;     // how often
  std::uint64_t refusals;  // neighbours
};

}  // namespace kvshim::preload
