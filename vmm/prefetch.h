// Parked contents that come back beside the work that reads them, and where each stands.
#pragma once

#include <cstdint>

#include "vmm/extent_name.h"

namespace kvshim::vmm {

/// In this order. Only the fault server goes from kBitsClear to kUnwritten and takes kCopied
/// away, at a guard's question: then that guard's stream is parked on it and all pool work
/// submitted before it has finished.
enum class PrefetchStage : std::uint8_t {
  kChosen,     // GPU memory is there, residency bits are still to be cleared
  kBitsClear,  // work that comes from now on asks before it writes; earlier work may not have
  kUnwritten,  // all earlier work has finished: the contents hold still until somebody asks
  kCopying,    // by the own stream, from the pool's addresses: they must not move
  kCopied,     // to be swapped in
};

struct Prefetch {
  std::uint32_t number = 0;  // Extent::prefetch of each extent of the block
  PreparedPark block;        // its staging is where the copy goes
  PrefetchStage stage = PrefetchStage::kChosen;
  bool is_void = false;  // somebody asked to write it, or may write it without asking
};

}  // namespace kvshim::vmm
