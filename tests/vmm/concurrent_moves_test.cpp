// Moves while guards and the releasing thread are at work: what a review has found.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "tests/vmm/engine_bench.h"
#include "tests/vmm/fake_pressure.h"

namespace kvshim::vmm::testing {
namespace {

class ConcurrentMoves : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kA = 2, kB = 9, kElsewhere = 20;
  ConcurrentMoves()
      : bench_({.host_budget = kGiB,
                .read_ahead_max = kNoReadAhead,
                .rows_ahead = false,
                .pressure = &neighbours_}) {
    neighbours_.there.store(false);
    pool_ = bench_.pool(32 * kGranuleBytes);
  }
  void clear(std::uint32_t row) {
    const AbiRun run{bench_.granule(pool_, row), 1};
    ASSERT_EQ(bench_.memory->kernels().launch_clear(std::span(&run, 1)), CUDA_SUCCESS);
    ASSERT_TRUE(bench_.driver.drain(bench_.memory->kernels().stream()));
  }
  void ask() {  // some other guard asks
    clear(kElsewhere);
    bench_.write_granules(pool_, {kElsewhere}, 7);
    ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  }
  void begin_away() {
    std::vector<ExtentName> blocks;
    for (const ExtentName& e : bench_.resident()) {
      if (e.offset == kA) blocks.push_back(e);
    }
    ASSERT_EQ(bench_.memory->begin_to_send_away(blocks, kGiB).size(), 1u);
    clear(kA);
    bench_.memory->move_bits_cleared();
  }
  std::size_t copy() {
    const std::vector<AbiCopy> copies = bench_.memory->move_copies();
    for (const AbiCopy& one : copies) bench_.copy(one);
    bench_.memory->moves_copied(true);
    return copies.size();
  }
  FakePressure neighbours_;
  EngineBench bench_;
  const PoolRecord* pool_ = nullptr;
};

// A fixed and a linear one, say, or more than kMaxFixedRuns runs.
TEST_F(ConcurrentMoves, WorkBehindTwoGuardsLosesNoWrite) {
  bench_.write_granules(pool_, {kA}, 1);
  bench_.write_granules(pool_, {kElsewhere}, 1);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  std::atomic<bool> first_passed{false}, go_on{false}, write_now{false};
  bench_.gate.enter();
  const AbiRun a{bench_.granule(pool_, kA), 1}, b{bench_.granule(pool_, kB), 1};
  ASSERT_EQ(bench_.memory->kernels().launch_fixed_guard(bench_.stream, std::span(&a, 1)),
            CUDA_SUCCESS);
  // Nothing but time between two kernels.
  bench_.driver.enqueue(bench_.stream, {}, [&] {
    first_passed = true;
    while (!go_on) std::this_thread::yield();
  });
  ASSERT_EQ(bench_.memory->kernels().launch_fixed_guard(bench_.stream, std::span(&b, 1),
                                                        GuardPlace::kBehindAnother),
            CUDA_SUCCESS);
  bench_.driver.enqueue(bench_.stream, {}, [&] {
    while (!write_now) std::this_thread::yield();
    bench_.write(pool_, kA, 999);
    bench_.write(pool_, kB, 998);
  });
  bench_.gate.leave();
  ASSERT_TRUE(eventually([&] { return first_passed.load(); }));
  begin_away();
  go_on = true;  // the second guard asks
  ASSERT_TRUE(eventually([&] { return bench_.bit(bench_.granule(pool_, kB)); }));
  EXPECT_EQ(copy(), 0u) << "earlier work is unfinished: it is about to write this";
  write_now = true;
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  ask();
  EXPECT_TRUE(bench_.holds(pool_, kA, 999)) << "LOST WRITE";
  bench_.memory->end_moves(DeviceMemory::MoveEnd::kAll);
  bench_.memory->release_retired();
}

// Guards that give up may ask unheard. A driver that hangs delays the memory for a move as well.
TEST_F(ConcurrentMoves, NothingBeginsWhenGuardsAreToldToGiveUpMeanwhile) {
  bench_.write_granules(pool_, {kA}, 1);
  bench_.write_granules(pool_, {kElsewhere}, 1);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  const std::vector<ExtentName> blocks = bench_.resident();
  bench_.driver.host_create_microseconds = 500'000;
  const std::uint64_t calls = bench_.driver.calls(Call::cuMemCreate);
  std::size_t begun = 0;
  std::thread releaser([&] { begun = bench_.memory->begin_to_send_away(blocks, kGiB).size(); });
  EXPECT_TRUE(eventually([&] { return bench_.driver.calls(Call::cuMemCreate) != calls; }));
  std::uint32_t& give_up = bench_.memory->kernels().channel()->give_up;
  bench_.memory->guard_gives_up();
  std::atomic_ref(give_up).store(1);
  releaser.join();
  EXPECT_EQ(begun, 0u);
  std::atomic_ref(give_up).store(0);
  EXPECT_NE(bench_.memory->begin_to_send_away(blocks, kGiB).size(), 0u);
  bench_.memory->end_moves(DeviceMemory::MoveEnd::kAll);
}

// A move that waits for its swap, and a release that scans with the gate open.
TEST_F(ConcurrentMoves, NothingIsSwappedUnderTheOwnScan) {
  bench_.write_granules(pool_, {kA}, 1);
  bench_.write_granules(pool_, {kElsewhere}, 1);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  begin_away();
  ask();
  ASSERT_EQ(copy(), 1u);  // it waits for a question
  const CUstream own = bench_.memory->kernels().stream();
  ReleaseSettings settings;
  settings.idle_timeout = 1h;
  settings.restore_time = 0ms;
  const std::uint64_t quiet = bench_.gate.epoch();
  bench_.release_when_idle(settings);
  std::this_thread::sleep_for(50ms);
  bench_.driver.hold(own, true);
  bench_.releaser->release_now();  // or neighbours, or an own allocation
  ASSERT_TRUE(eventually([&] { return bench_.driver.api().cuStreamQuery(own) != CUDA_SUCCESS; }));
  ASSERT_EQ(bench_.gate.epoch(), quiet);
  // New work comes while the scan runs; a bit of it is clear.
  bench_.write_granules(pool_, {kB}, 5);
  ASSERT_TRUE(bench_.driver.drain(bench_.stream));
  bench_.driver.hold(own, false);
  ASSERT_TRUE(bench_.driver.drain(own));
  EXPECT_EQ(bench_.memory->statistics().moved_away_bytes.load(), 0u);
  for (const std::string& what : bench_.driver.violations()) ADD_FAILURE() << what;
}

}  // namespace
}  // namespace kvshim::vmm::testing
