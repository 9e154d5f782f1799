// Parked rows of two siblings, and the steps of a move beside work: to the GPU and away.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/vmm/parked_rows.h"

namespace kvshim::vmm::testing {

class MovesTest : public ParkedRowsTest {
 protected:
  static constexpr std::uint32_t kElsewhere = 30;
  static constexpr std::uint64_t kTick = 7;
  void SetUp() override {
    ParkedRowsTest::SetUp();
    bench_.served(pool_, kElsewhere);
  }
  void read(const std::vector<std::uint32_t>& rows) { bench_.readers_read(pool_, rows, kTick); }
  std::size_t begin() { return bring_home(kGiB); }
  std::size_t bring_home(std::uint64_t most, std::uint64_t headroom = 0,
                         std::uint64_t read_since = kTick) {
    const std::vector<ExtentName> read = bench_.memory->read_while_parked(read_since);
    return bench_.memory->begin_to_bring_home(read, most, headroom).size();
  }
  /// A guard asks for something else.
  void ask() { EXPECT_EQ(bench_.fault(pool_, kElsewhere).kind, AnswerKind::kPresent); }
  std::size_t copy() {
    const std::vector<AbiCopy> copies = bench_.memory->move_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    bench_.memory->moves_copied(true);
    return copies.size();
  }
  void end(DeviceMemory::MoveEnd which = DeviceMemory::MoveEnd::kVoid) {
    bench_.memory->end_moves(which);
    bench_.memory->release_retired();
    bench_.expect_sound();
  }
  std::uint64_t resident() const {
    return bench_.figures(pool_).resident + bench_.figures(sibling_).resident -
           2 * kGranuleBytes;  // elsewhere
  }
  std::uint64_t prefetched() const { return bench_.memory->statistics().prefetched_bytes.load(); }
};

/// All of them are on the GPU.
class AwayTest : public MovesTest {
 protected:
  void SetUp() override {
    MovesTest::SetUp();
    bench_.bring_back(bench_.parked());
    ask();
  }
  std::size_t begin_away(const std::vector<std::uint32_t>& rows) {
    std::vector<ExtentName> blocks;
    for (const ExtentName& extent : bench_.resident()) {
      if (std::find(rows.begin(), rows.end(), extent.offset) != rows.end()) {
        blocks.push_back(extent);
      }
    }
    return bench_.memory->begin_to_send_away(blocks, kGiB).size();
  }
  std::uint64_t sent_away() const { return bench_.memory->statistics().moved_away_bytes.load(); }
  std::uint64_t parked() const {
    return bench_.figures(pool_).parked + bench_.figures(sibling_).parked;
  }
};

}  // namespace kvshim::vmm::testing
