// How soon contents come home beside work. By itself: another test beside it takes the time.
#include "tests/vmm/moves_beside_work.h"

namespace kvshim::vmm::testing {
namespace {

// Chosen at a tick, it is copied after the next question and swapped at the one after that. If it
// were copied at ticks only, it would come a tick later mostly.
TEST_F(MovesBesideWork, ItComesHomeBetweenTicks) {
  constexpr int kRounds = 25, kInTime = 21;  // 25 beside a load of 3; without: 9, 14 beside it
  bench_.write_rows(0, kRows, 1);
  bench_.write_rows(kBusyRow, kBusyRow + 1, 1);
  bench_.release_when_idle(idle_in_an_hour());  // ticks of 20 ms
  int in_time = 0;
  for (int i = 0; i < kRounds; ++i) {
    bench_.releaser->release_now();
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    const std::uint64_t before = prefetched();
    std::uint64_t chosen = 0;
    ASSERT_TRUE(step_until({3}, [&] {
      if (chosen == 0 && bench_.memory->bytes_on_their_way(MoveTo::kGpu) != 0) {
        chosen = bench_.memory->tick();
      }
      return prefetched() != before;
    }));
    if (bench_.memory->tick() - chosen <= 1) ++in_time;
  }
  EXPECT_GE(in_time, kInTime);
  bench_.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
