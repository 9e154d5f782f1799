// In which parts an extent is parked that writing has not passed yet. Pure bookkeeping.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/extent_name.h"
#include "vmm/units.h"

namespace kvshim::vmm {

struct ParkPart {
  std::uint8_t order = 0;
  bool zero = false;  // becomes absent; the others are copied
  friend bool operator==(const ParkPart&, const ParkPart&) = default;
};

/// The parts of an extent of which each granule was looked at (ExtentName::by_granule), by
/// address. The last granule that is not zero is one by itself: where writing stopped it goes on,
/// and little has to be back for it. (Where nothing is zero its parts come back as one block.)
/// What is copied comes in parts of at most `largest`.
std::vector<ParkPart> parts_of(const ExtentName& extent, std::uint8_t largest);
/// How many granules of it lie before the end of what is not zero.
std::uint32_t written_granules(const ExtentName& extent);

}  // namespace kvshim::vmm
