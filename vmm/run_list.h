// Runs of granules, as an answer to a guard lists them.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/guard_abi.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// Appends a run, joined to the last one when they touch.
inline void add_run(std::vector<AbiRun>* runs, GranuleIndex first, std::uint32_t count) {
  if (!runs->empty() && runs->back().first + runs->back().count == first) {
    runs->back().count += count;
  } else {
    runs->push_back({first, count});
  }
}

}  // namespace kvshim::vmm
