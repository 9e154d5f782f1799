#include "tests/engine/blocks.h"

#include <algorithm>

namespace kvshim::engine {

Blocks::Blocks(unsigned count, bool newest_first) : newest_first_(newest_first), blocks_(count) {
  for (unsigned i = 1; i < count; ++i) free_.push_back(static_cast<int>(i));
}

int Blocks::take() {
  if (free_.empty()) return -1;
  const int block = free_.front();
  free_.pop_front();
  Block& taken = blocks_[static_cast<std::size_t>(block)];
  if (taken.hash != 0) by_hash_.erase(taken.hash);
  taken.hash = 0;
  taken.users = 1;
  return block;
}

int Blocks::take_shared(std::uint64_t hash) {
  const auto found = by_hash_.find(hash);
  if (found == by_hash_.end()) return -1;
  Block& shared = blocks_[static_cast<std::size_t>(found->second)];
  if (shared.users++ == 0) std::erase(free_, found->second);
  return found->second;
}

void Blocks::remember(int block, std::uint64_t hash) {
  if (by_hash_.contains(hash)) return;
  blocks_[static_cast<std::size_t>(block)].hash = hash;
  by_hash_[hash] = block;
}

void Blocks::give_back(int block) {
  Block& given = blocks_[static_cast<std::size_t>(block)];
  if (--given.users != 0) return;
  if (newest_first_) {
    free_.push_front(block);
  } else {
    free_.push_back(block);
  }
}

}  // namespace kvshim::engine
