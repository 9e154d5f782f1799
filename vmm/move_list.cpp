#include "vmm/move_list.h"

#include <algorithm>

namespace kvshim::vmm {

Move* MoveList::find(std::uint32_t number) {
  const auto it = std::find_if(moves_.begin(), moves_.end(),
                               [&](const Move& one) { return one.number == number; });
  return number == 0 || it == moves_.end() ? nullptr : &*it;
}

bool MoveList::any_of(const std::function<bool(const Move&)>& is) const {
  return std::any_of(moves_.begin(), moves_.end(), is);
}

std::uint64_t MoveList::bytes(MoveTo to) const {
  std::uint64_t bytes = 0;
  for (const Move& move : moves_) {
    if (move.to == to) bytes += move.block.extent.bytes();
  }
  return bytes;
}

std::uint32_t MoveList::begin(const PreparedPark& block, MoveTo to, std::uint64_t give_ups) {
  if (moves_.empty()) give_ups_before_ = give_ups;
  last_number_ = std::max<std::uint32_t>(last_number_ + 1, 1);
  moves_.push_back({.number = last_number_, .to = to, .block = block});
  return last_number_;
}

bool MoveList::is_being_copied(std::uint32_t number) {
  const Move* const move = find(number);
  return move != nullptr && move->stage == MoveStage::kCopying;
}

void MoveList::make_void(std::uint32_t number) {
  if (Move* const move = find(number)) move->is_void = true;
}

void MoveList::make_all_void() {
  for (Move& move : moves_) move.is_void = true;
}

// A question that was open when the bits were cleared proves nothing: its guard may have looked at
// them before.
void MoveList::earlier_work_has_finished(GuardPlace place, std::uint32_t asked) {
  if (place != GuardPlace::kFirst) return;
  for (Move& move : moves_) {
    if (move.is_void || move.stage != MoveStage::kBitsClear) continue;
    if (move.open_ticket != 0 && move.open_ticket == asked) continue;
    move.stage = MoveStage::kUnwritten;
    move.proven = question_;
  }
}

void MoveList::question_was_refused() {
  for (Move& move : moves_) {
    if (move.proven != question_) continue;
    if (move.stage == MoveStage::kUnwritten) {
      move.stage = MoveStage::kBitsClear;
    } else {
      move.is_void = true;
    }
  }
}

void MoveList::bits_were_cleared(std::uint32_t open) {
  for (Move& move : moves_) {
    if (move.stage != MoveStage::kChosen) continue;
    move.stage = MoveStage::kBitsClear;
    move.open_ticket = open;
  }
}

bool MoveList::any_needs_a_question() const {
  return any_of(
      [](const Move& move) { return !move.is_void && move.stage != MoveStage::kUnwritten; });
}

void MoveList::copies_ended(bool well) {
  for (Move& move : moves_) {
    if (move.stage != MoveStage::kCopying) continue;
    move.stage = MoveStage::kCopied;
    move.is_void = move.is_void || !well;
  }
}

}  // namespace kvshim::vmm
