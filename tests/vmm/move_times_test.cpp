// How soon contents come home beside work. By itself: another test beside it takes the time.
#include "tests/vmm/moves_beside_work.h"

namespace kvshim::vmm::testing {
namespace {

// The tick after the first step hears of the work and asks the readers, the next one chooses
// what they read. If that were copied at ticks only, it would be there a tick later mostly.
TEST_F(MovesBesideWork, ItComesHomeBetweenTicks) {
  ReleaseSettings settings = soon_idle();
  settings.idle_timeout = 1h;  // ticks of 20 ms
  bench_.write_rows(0, kRows, 1);
  bench_.write_rows(kBusyRow, kBusyRow + 1, 1);
  bench_.release_when_idle(settings);
  int in_time = 0;
  for (int i = 0; i < 60 && in_time < 5; ++i) {
    bench_.releaser->release_now();
    ASSERT_TRUE(eventually([&] { return bench_.memory->physical().device == 0; }));
    const std::uint64_t before = prefetched(), tick = bench_.memory->tick();
    ASSERT_TRUE(step_until({3}, [&] { return prefetched() != before; }));
    in_time = bench_.memory->tick() <= tick + 2 ? in_time + 1 : 0;
  }
  EXPECT_EQ(in_time, 5) << "in a row";
  bench_.expect_contents();
}

}  // namespace
}  // namespace kvshim::vmm::testing
