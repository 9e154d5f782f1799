// Contents that move between GPU and host memory beside work, and where each stands.
#pragma once

#include <cstdint>

#include "vmm/extent_name.h"

namespace kvshim::vmm {

/// In this order. Only the fault server goes from kBitsClear to kUnwritten and swaps kCopied
/// in, at a guard's question: then that guard's stream is parked on it and all pool work
/// submitted before it has finished.
enum class MoveStage : std::uint8_t {
  kChosen,     // memory is there, residency bits are still to be cleared
  kBitsClear,  // work that comes from now on asks before it writes; earlier work may not have
  kUnwritten,  // all earlier work has finished: the contents hold still until somebody asks
  kCopying,    // by the own stream, from the pool's addresses: they must stay mapped
  kCopied,     // to be swapped in
};

enum class MoveTo : std::uint8_t { kGpu, kHost };

struct Move {
  std::uint32_t number = 0;  // Extent::move of each extent of the block
  MoveTo to = MoveTo::kGpu;
  PreparedPark block;  // its staging is where the copy goes
  MoveStage stage = MoveStage::kChosen;
  std::uint32_t open_ticket = 0;  // of a question that was open when the bits were clear; 0: none
  std::uint64_t proven = 0;       // the question (DeviceMemory's count) that made it kUnwritten
  bool is_void = false;           // somebody asked to write it, or may write it without asking
};

}  // namespace kvshim::vmm
