// Which block of the pools holds what: free blocks, and blocks whose contents
// a later prompt may share (as vLLM's prefix cache does).
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

namespace kvshim::engine {

class Blocks {
 public:
  /// Block 0 is never given out (the null block).
  Blocks(unsigned count, bool newest_first);

  /// A block to be written; -1 when none is free. Its old contents are forgotten.
  int take();
  /// The block that holds contents `hash`, taken for sharing; -1 when none does.
  int take_shared(std::uint64_t hash);
  /// The block is full and holds contents `hash` from now on.
  void remember(int block, std::uint64_t hash);
  /// One user less; free, contents kept, after the last.
  void give_back(int block);

  unsigned free_count() const { return static_cast<unsigned>(free_.size()); }

 private:
  struct Block {
    unsigned users = 0;
    std::uint64_t hash = 0;  // 0: nothing worth remembering
  };
  bool newest_first_;
  std::vector<Block> blocks_;
  std::deque<int> free_;
  std::unordered_map<std::uint64_t, int> by_hash_;
};

}  // namespace kvshim::engine
