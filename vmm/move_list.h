// Contents that move between GPU and host memory beside work, and where each stands.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "vmm/device_kernels.h"
#include "vmm/extent_name.h"

namespace kvshim::vmm {

/// In this order. Only a guard's question leads from kBitsClear to kUnwritten, and to the swap of
/// what is kCopied: then that guard's stream is parked on it and all pool work submitted before it
/// has finished.
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
  std::uint64_t proven = 0;       // the question that made it kUnwritten
  bool is_void = false;           // somebody asked to write it, or may write it without asking
};

/// The stages of all moves of a device, and the questions that they wait for; no call of the
/// driver is made here. Why a copy that gets through them is exact: docs/moves.md. Not
/// thread-safe: under the owning DeviceMemory's mutex.
class MoveList {
 public:
  bool empty() const { return moves_.empty(); }
  std::vector<Move>& moves() { return moves_; }
  /// Null when there is none; there is no number 0.
  Move* find(std::uint32_t number);
  bool any_of(const std::function<bool(const Move&)>& is) const;
  std::uint64_t bytes(MoveTo to) const;

  /// A new one, kChosen; its number. `give_ups`: how many guards were told to give up until now.
  std::uint32_t begin(const PreparedPark& block, MoveTo to, std::uint64_t give_ups);
  bool is_being_copied(std::uint32_t number);
  void make_void(std::uint32_t number);
  void make_all_void();

  // --- questions --------------------------------------------------------------------
  void question_comes() { ++question_; }
  /// Guards that gave up may have let work pass that nobody was asked for: none since the
  /// first of these moves began?
  bool none_gave_up(std::uint64_t give_ups) const { return give_ups == give_ups_before_; }
  /// The question comes from a guard in this place, under the ticket `asked`: what work before it
  /// may have written holds still from now on.
  void earlier_work_has_finished(GuardPlace place, std::uint32_t asked);
  /// A guard that is refused lets its work pass without another look at its bits: what its
  /// question has proven is not so.
  void question_was_refused();

  // --- bits and copies ----------------------------------------------------------------
  /// Of all that are kChosen. `open`: the ticket of a question without an answer, or 0.
  void bits_were_cleared(std::uint32_t open);
  /// Whether some move waits for a guard to ask, or for its bits to be cleared.
  bool any_needs_a_question() const;
  void copies_ended(bool well);

 private:
  std::vector<Move> moves_;
  std::uint32_t last_number_ = 0;
  std::uint64_t question_ = 0;         // how many there were
  std::uint64_t give_ups_before_ = 0;  // of all that are in moves_
};

}  // namespace kvshim::vmm
