#include <gtest/gtest.h>

#include <set>
#include "tests/vmm/random.h"

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

TEST(DeviceMemoryFaultTest, AFaultMakesTheRowPresentInAllSiblings) {
  MemoryBench bench;
  std::vector<const PoolRecord*> layers;
  for (int i = 0; i < 4; ++i) layers.push_back(bench.pool(100 * kMiB, "layers"));
  const PoolRecord* stranger = bench.pool(100 * kMiB, "another group");
  const FaultAnswer answer = bench.fault(layers[1], 7);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  ASSERT_FALSE(answer.runs.empty());
  EXPECT_EQ(answer.runs[0].first, bench.granule(layers[1], 7)) << "what was asked for comes first";
  for (const PoolRecord* layer : layers) {
    EXPECT_TRUE(bench.writable(layer, 7));
    EXPECT_FALSE(bench.writable(layer, 6));
    EXPECT_FALSE(bench.writable(layer, 8));
    EXPECT_TRUE(names(answer.runs, bench.granule(layer, 7)));
  }
  EXPECT_FALSE(bench.writable(stranger, 7));
  EXPECT_EQ(bench.memory->physical().device, 4 * kGranuleBytes);
}

TEST(DeviceMemoryFaultTest, AShorterSiblingIsLeftWhereItHasNoSuchRow) {
  MemoryBench bench;
  const PoolRecord* whole = bench.pool(100 * kMiB);
  const PoolRecord* half = bench.pool(20 * kMiB);
  EXPECT_EQ(bench.fault(whole, 30).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench.memory->physical().device, kGranuleBytes);
  EXPECT_EQ(bench.fault(whole, 9).kind, AnswerKind::kPresent);
  EXPECT_TRUE(bench.writable(half, 9));
}

// The first half of a pool holds K, the second V: two sequences in one pool.
TEST(DeviceMemoryFaultTest, ReadAheadGrowsForKAndForV) {
  MemoryBench bench({.read_ahead_share = 1.0});
  const PoolRecord* pool = bench.pool(512 * kMiB);
  const std::uint32_t v = 128;
  std::vector<std::size_t> sizes;
  for (std::uint32_t k = 0; k < 100;) {
    bench.fault(pool, k);
    bench.fault(pool, v + k);
    EXPECT_EQ(bench.extent_granules(pool, k), bench.extent_granules(pool, v + k));
    sizes.push_back(bench.extent_granules(pool, k));
    k += static_cast<std::uint32_t>(sizes.back());
  }
  EXPECT_EQ(sizes.front(), 1u);
  EXPECT_EQ(sizes.back(), 16u);
  EXPECT_LT(sizes.size(), 16u);
}

TEST(DeviceMemoryFaultTest, ScatteredFaultsTakeOneGranuleEach) {
  MemoryBench bench({.read_ahead_share = 1.0});
  const PoolRecord* pool = bench.pool(512 * kMiB);
  for (std::uint32_t i = 0; i < 40; ++i) {
    const std::uint32_t g = i * 37 % 200;  // never the neighbour after another
    bench.fault(pool, g);
    EXPECT_EQ(bench.extent_granules(pool, g), 1u);
  }
  EXPECT_EQ(bench.memory->physical().device, 40 * kGranuleBytes);
}

TEST(DeviceMemoryFaultTest, ReadAheadStaysWithinItsShareOfWhatWasWritten) {
  constexpr std::uint64_t kAlwaysAllowed = 2 * kGranuleBytes + 32 * kMiB;
  MemoryBench bench({.read_ahead_share = 0.25});
  const PoolRecord* pool = bench.pool(kGiB);
  std::uint64_t written = 0;
  for (std::uint32_t g = 0; g < 512;) {
    bench.fault(pool, g);
    const auto size = static_cast<std::uint32_t>(bench.extent_granules(pool, g));
    const std::uint64_t ahead = size * kGranuleBytes;
    EXPECT_LE(ahead, kAlwaysAllowed + written / 4) << "at granule " << g;
    g += size;
    written = g * kGranuleBytes;
  }
}

TEST(DeviceMemoryFaultTest, ReadAheadHasTheLimitOfItsOption) {
  MemoryBench bench({.read_ahead_max = 4 * kMiB, .read_ahead_share = 1.0});
  const PoolRecord* pool = bench.pool(kGiB);
  for (std::uint32_t g = 0; g < 64;) {
    bench.fault(pool, g);
    EXPECT_LE(bench.extent_granules(pool, g), 2u);
    g += static_cast<std::uint32_t>(bench.extent_granules(pool, g));
  }
}

TEST(DeviceMemoryFaultTest, ReleaseResetsReadAhead) {
  MemoryBench bench({.read_ahead_share = 1.0});
  const PoolRecord* pool = bench.pool(kGiB);
  std::uint32_t g = 0;
  while (g < 64) {
    bench.fault(pool, g);
    g += static_cast<std::uint32_t>(bench.extent_granules(pool, g));
  }
  EXPECT_EQ(bench.extent_granules(pool, g - 1), 16u);
  bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kZero);
  bench.fault(pool, g);
  EXPECT_LE(bench.extent_granules(pool, g), 2u);
}

TEST(DeviceMemoryFaultTest, AnExactRequestIsCoveredWithFewExtentsAndNothingElse) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(400 * kMiB);
  const FaultAnswer answer = bench.fault(pool, 5, 60, false);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  EXPECT_EQ(bench.memory->physical().device, 60 * kGranuleBytes);
  for (std::uint32_t g = 0; g < 200; ++g) {
    EXPECT_EQ(bench.writable(pool, g), g >= 5 && g < 65) << g;
    EXPECT_EQ(names(answer.runs, bench.granule(pool, g)), g >= 5 && g < 65) << g;
  }
  // 5, 6-7, 8-15, 16-31, 32-47, 48-63, 64.
  std::set<std::uint32_t> starts;
  for (std::uint32_t g = 5; g < 65; g += static_cast<std::uint32_t>(bench.extent_granules(pool, g)))
    starts.insert(g);
  EXPECT_EQ(starts.size(), 7u);
}

TEST(DeviceMemoryFaultTest, AnExactRequestLeavesSiblingsAlone) {
  MemoryBench bench;
  const PoolRecord* a = bench.pool(100 * kMiB);
  const PoolRecord* b = bench.pool(100 * kMiB);
  bench.fault(a, 3, 1, false);
  EXPECT_TRUE(bench.writable(a, 3));
  EXPECT_FALSE(bench.writable(b, 3));
}

TEST(DeviceMemoryFaultTest, AskingForWhatIsPresentIsAnsweredAtOnce) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(100 * kMiB);
  bench.fault(pool, 3);
  const std::uint64_t maps = bench.driver.calls(Call::cuMemMap);
  for (const bool rows : {true, false}) {
    const FaultAnswer answer = bench.fault(pool, 3, 1, rows);
    EXPECT_EQ(answer.kind, AnswerKind::kPresent);
    EXPECT_TRUE(names(answer.runs, bench.granule(pool, 3)));
  }
  EXPECT_EQ(bench.driver.calls(Call::cuMemMap), maps);
}

TEST(DeviceMemoryFaultTest, GranulesOfNoPoolAreRefusedWithoutHarm) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(100 * kMiB);
  const AbiRun nowhere[] = {
      {bench.arena->granules() - 1, 1}, {bench.granule(pool, 50) + 3, 2}, {UINT32_MAX, 1}};
  EXPECT_EQ(bench.memory->fault(nowhere, true).kind, AnswerKind::kFailed);
  EXPECT_EQ(bench.memory->fault(nowhere, false).kind, AnswerKind::kFailed);
}

TEST(DeviceMemoryFaultTest, NoAnswerIsLongerThanItsArrayForWhatWasAskedFor) {
  MemoryBench bench({}, 64 * kGiB);
  const PoolRecord* pool = bench.pool(3 * kGiB);
  std::vector<AbiRun> wanted;  // every second granule: no two runs join
  for (std::uint32_t g = 0; g < 1536; g += 2) wanted.push_back({bench.granule(pool, g), 1});
  const FaultAnswer answer = bench.memory->fault(wanted, true);
  ASSERT_LE(wanted.size(), kMaxAnswerRuns);
  std::vector<AbiRun> sent = answer.runs;
  sent.resize(std::min<std::size_t>(sent.size(), kMaxAnswerRuns));
  for (const AbiRun& run : wanted) EXPECT_TRUE(names(sent, run.first));
}

// --- short of memory -------------------------------------------------------------

TEST(DeviceMemoryFaultTest, PagesAreMadeInHostMemoryWhenTheGpuIsFull) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* pool = bench.pool(100 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor);
  const FaultAnswer answer = bench.fault(pool, 3);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  EXPECT_TRUE(bench.writable(pool, 3));
  EXPECT_EQ(bench.figures(pool).parked, kGranuleBytes);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_EQ(bench.memory->statistics().faults_in_host_memory.load(), 1u);
  std::string told;
  for (const Event& event : bench.memory->events().drain()) told += event.text + "\n";
  EXPECT_NE(told.find("2 MiB of a fault are made in host memory, for the 1. time: "),
            std::string::npos)
      << told;
  EXPECT_NE(told.find(" MiB are free, of which "), std::string::npos) << told;
}

TEST(DeviceMemoryFaultTest, HostMemoryServesWhenOthersTookTheLastOfTheGpu) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free());
  const FaultAnswer answer = bench.fault(pool, 3);
  EXPECT_EQ(answer.kind, AnswerKind::kPresent);
  EXPECT_TRUE(bench.writable(pool, 3));
}

// Host handles are used again: what was parked in one is not zero.
TEST(DeviceMemoryFaultTest, APageMadeInHostMemoryHoldsZerosWhateverWasParkedBefore) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* pool = bench.pool(128 * kMiB);
  bench.fault(pool, 3);
  bench.write(pool, 3, 7);
  ASSERT_EQ(bench.park_all(), 1u);
  ASSERT_EQ(bench.memory->swap_to_absent(bench.parked(), ProofOfAbsence::kDroppedByRule),
            kGranuleBytes);
  bench.memory->release_retired();
  bench.driver.take_gpu_memory(bench.driver.gpu_free());
  bench.forget_free_memory();
  ASSERT_EQ(bench.fault(pool, 20).kind, AnswerKind::kPresent);
  ASSERT_EQ(bench.figures(pool).parked, kGranuleBytes);
  EXPECT_TRUE(bench.is_zero(pool, 20));
}

TEST(DeviceMemoryFaultTest, SiblingsGetNoHostMemory) {
  MemoryBench bench({.host_budget = 64 * kMiB});
  const PoolRecord* a = bench.pool(100 * kMiB);
  const PoolRecord* b = bench.pool(100 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor);
  EXPECT_EQ(bench.fault(a, 3).kind, AnswerKind::kPresent);
  EXPECT_FALSE(bench.writable(b, 3));
  EXPECT_EQ(bench.memory->host_in_use(), kGranuleBytes);
}

TEST(DeviceMemoryFaultTest, WhatWasAskedForComesBeforeItsSiblingsWhenMemoryIsShort) {
  MemoryBench bench({.host_budget = 0});
  const PoolRecord* a = bench.pool(100 * kMiB);
  const PoolRecord* b = bench.pool(100 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor - 3 * kGranuleBytes);
  const FaultAnswer answer = bench.fault(a, 10, 3);
  for (std::uint32_t g = 10; g < 13; ++g) {
    EXPECT_TRUE(names(answer.runs, bench.granule(a, g)));
    EXPECT_FALSE(bench.writable(b, g));
  }
}

TEST(DeviceMemoryFaultTest, TheFloorGivesWayOnlyWhenTheHostBudgetIsFull) {
  MemoryBench bench({.host_budget = 2 * kMiB});
  const PoolRecord* pool = bench.pool(100 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor);
  bench.fault(pool, 3);
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_EQ(bench.fault(pool, 20).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench.memory->physical().device, kGranuleBytes);
}

// Read-ahead is a guess: it is not worth host memory, nor a slow page.
TEST(DeviceMemoryFaultTest, ReadAheadTakesNoHostMemory) {
  MemoryBench bench({.host_budget = 256 * kMiB, .read_ahead_share = 1.0});
  const PoolRecord* pool = bench.pool(kGiB);
  std::uint32_t g = 0;
  while (g < 32) {
    bench.fault(pool, g);
    g += static_cast<std::uint32_t>(bench.extent_granules(pool, g));
  }
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor - 4 * kMiB);
  bench.forget_free_memory();
  EXPECT_EQ(bench.fault(pool, g).kind, AnswerKind::kPresent);
  EXPECT_EQ(bench.extent_granules(pool, g), 1u);
  EXPECT_EQ(bench.memory->host_in_use(), 0u) << "a granule of GPU memory was to be had";
}

TEST(DeviceMemoryFaultTest, NothingAnywhereIsAFailureThatIsTold) {
  MemoryBench bench({.host_budget = 0}, 2 * kGiB);
  const PoolRecord* pool = bench.pool(100 * kMiB);
  bench.driver.take_gpu_memory(bench.driver.gpu_free());
  EXPECT_EQ(bench.fault(pool, 3).kind, AnswerKind::kFailed);
  EXPECT_EQ(bench.memory->statistics().failed_faults.load(), 1u);
  const std::vector<Event> events = bench.events();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().level, EventLevel::kError);
  EXPECT_TRUE(bench.is_zero(pool, 3));
}

// A full GPU must not make each of the many looks at a row a question to the driver.
TEST(DeviceMemoryFaultTest, AFullGpuIsNotAskedForItsMemoryAgainAndAgain) {
  MemoryBench bench({.host_budget = kGiB});
  std::vector<const PoolRecord*> layers;
  for (int i = 0; i < 16; ++i) layers.push_back(bench.pool(128 * kMiB, "layers"));
  bench.driver.take_gpu_memory(bench.driver.gpu_free() - kFloor);
  const std::uint64_t before = bench.driver.calls(Call::cuMemGetInfo_v2);
  bench.fault(layers[0], 0, 60);
  EXPECT_LT(bench.driver.calls(Call::cuMemGetInfo_v2) - before, 400u);
}

// --- random ------------------------------------------------------------------------

TEST(DeviceMemoryFaultTest, RandomFaultsKeepContentsAndInvariants) {
  MemoryBench bench({.host_budget = 64 * kMiB}, 2 * kGiB);
  Random random(17);
  const PoolRecord* pools[] = {bench.pool(150 * kMiB), bench.pool(150 * kMiB),
                               bench.pool(90 * kMiB, "other")};
  std::map<std::pair<const PoolRecord*, std::uint32_t>, std::uint64_t> contents;
  for (std::uint64_t step = 1; step <= 300; ++step) {
    const PoolRecord* pool = pools[random() % 3];
    const auto granules = static_cast<std::uint32_t>(pool->mapped_bytes / kGranuleBytes);
    const std::uint32_t first = random() % granules;
    const std::uint32_t count = std::min<std::uint32_t>(1 + random() % 5, granules - first);
    const FaultAnswer answer = bench.served(pool, first, count, random() % 2 == 0);
    ASSERT_EQ(answer.kind, AnswerKind::kPresent);
    for (std::uint32_t g = first; g < first + count; ++g) {
      ASSERT_TRUE(names(answer.runs, bench.granule(pool, g)));
      bench.write(pool, g, step);
      contents[{pool, g}] = step;
    }
    if (random() % 20 == 0) bench.park_all(step);
    for (const AbiRun& run : answer.runs) {
      ASSERT_EQ(bench.driver.mapped(bench.arena->address(run.first)),
                FakeDriver::Mapped::kWritable);
    }
    bench.expect_sound();
    for (const auto& [where, value] : contents) {
      ASSERT_TRUE(bench.holds(where.first, where.second, value));
    }
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
