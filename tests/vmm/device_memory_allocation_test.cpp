#include <gtest/gtest.h>

#include "tests/vmm/random.h"

#include "tests/vmm/memory_bench.h"

namespace kvshim::vmm::testing {
namespace {

TEST(DeviceMemoryAllocationTest, ANewPoolIsZeroReadOnlyAndHoldsNoMemory) {
  MemoryBench bench;
  const PoolRecord* pool = bench.pool(100 * kMiB + 1);
  EXPECT_EQ(pool->bytes, 100 * kMiB + 1);
  EXPECT_EQ(pool->mapped_bytes, 102 * kMiB);
  for (std::uint32_t g = 0; g < 51; ++g) {
    EXPECT_TRUE(bench.is_zero(pool, g));
    EXPECT_FALSE(bench.writable(pool, g));
  }
  EXPECT_EQ(bench.memory->physical().device, 0u);
  EXPECT_EQ(bench.table->find(pool->base), pool);
  EXPECT_EQ(bench.table->find(pool->base + pool->mapped_bytes - 1), pool);
  EXPECT_EQ(bench.table->find(pool->base + pool->mapped_bytes), nullptr);
}

TEST(DeviceMemoryAllocationTest, RefusesWhatAPlainAllocationCouldNotHaveHad) {
  MemoryBench bench({}, 2 * kGiB);
  const PoolRecord* record = nullptr;
  EXPECT_EQ(bench.memory->allocate(2 * kGiB, "kv", bench.driver.context(), &record),
            CUDA_ERROR_OUT_OF_MEMORY);
  bench.pool(kGiB);
  EXPECT_EQ(bench.memory->allocate(kGiB, "kv", bench.driver.context(), &record),
            CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(bench.memory->allocate(900 * kMiB, "kv", bench.driver.context(), &record),
            CUDA_SUCCESS);
}

TEST(DeviceMemoryAllocationTest, RefusesSizesThatNoGranuleCountCanHold) {
  MemoryBench bench;
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - kGranuleBytes, std::size_t{1} << 53}) {
    const PoolRecord* record = nullptr;
    EXPECT_EQ(bench.memory->allocate(bytes, "kv", bench.driver.context(), &record),
              CUDA_ERROR_OUT_OF_MEMORY);
  }
  EXPECT_EQ(bench.memory->pool_count(), 0u);
}

TEST(DeviceMemoryAllocationTest, TheArenaCanBeFullWhileMemoryIsFree) {
  MemoryBench bench({}, 4 * MemoryBench::kArena);
  const PoolRecord* record = nullptr;
  EXPECT_EQ(bench.memory->allocate(MemoryBench::kArena, "kv", bench.driver.context(), &record),
            CUDA_ERROR_NOT_SUPPORTED);  // then the caller makes a plain allocation
  EXPECT_EQ(bench.events().size(), 1u);
  bench.pool(MemoryBench::kArena / 2);
}

// I10: what the engine sees is what it would see had each pool been a plain
// allocation, whatever the pools really hold.
TEST(DeviceMemoryAllocationTest, FreeMemoryIsStaticArithmeticAfterEveryOperation) {
  MemoryBench bench;
  const std::uint64_t before = bench.driver.gpu_free();
  std::uint64_t full_size = 0;
  const auto expect_static = [&] { EXPECT_EQ(bench.free_memory(), before - full_size); };
  const PoolRecord* a = bench.pool(200 * kMiB);
  full_size += 200 * kMiB;
  expect_static();
  const PoolRecord* b = bench.pool(200 * kMiB);
  full_size += 200 * kMiB;
  expect_static();
  bench.served(a, 3);
  expect_static();
  for (std::uint32_t g = 0; g < 20; ++g) bench.write(a, 3, g), bench.served(b, g);
  expect_static();
  bench.park_all();
  expect_static();
  bench.served(a, 3);
  expect_static();
  bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kDroppedByRule);
  expect_static();
  bench.memory->release_retired();
  expect_static();
  EXPECT_EQ(bench.memory->free(a->base), CUDA_SUCCESS);
  full_size -= 200 * kMiB;
  expect_static();
  EXPECT_EQ(bench.memory->free(b->base), CUDA_SUCCESS);
  full_size = 0;
  expect_static();
  bench.expect_empty();
}

TEST(DeviceMemoryAllocationTest, FreeMemoryIsStaticArithmeticBesideARelease) {
  MemoryBench bench({.host_budget = kGiB, .read_ahead_max = kNoReadAhead});
  const PoolRecord* pool = bench.pool(200 * kMiB);
  const std::uint64_t expected = bench.free_memory();
  std::atomic<bool> ending{false};
  std::thread releasing([&] {
    while (!ending.load()) {
      bench.served(pool, 7);
      bench.memory->swap_to_absent(bench.resident(), ProofOfAbsence::kZero);
      bench.memory->release_retired();
    }
  });
  for (int i = 0; i < 20000; ++i) EXPECT_EQ(bench.free_memory(), expected);
  ending.store(true);
  releasing.join();
}

TEST(DeviceMemoryAllocationTest, FreeingTakesEverythingAlong) {
  MemoryBench bench;
  const PoolRecord* a = bench.pool(100 * kMiB);
  const PoolRecord* b = bench.pool(100 * kMiB);
  for (std::uint32_t g = 0; g < 10; ++g) bench.served(a, g), bench.write(a, g, g + 1);
  bench.park_all();
  bench.served(a, 20);
  EXPECT_EQ(bench.memory->free(a->base + kGranuleBytes), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(bench.memory->free(a->base), CUDA_SUCCESS);
  EXPECT_EQ(bench.memory->free(a->base), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(bench.table->find(a->base), nullptr);
  EXPECT_EQ(bench.table->find(b->base), b);
  bench.expect_sound();
  EXPECT_EQ(bench.memory->free(b->base), CUDA_SUCCESS);
  bench.expect_empty();
}

// I9: bits of a freed pool may still say present; the next pool at the same
// addresses must not inherit them.
TEST(DeviceMemoryAllocationTest, AddressesMeanAnotherPoolOnlyAfterTheirBitsWereCleared) {
  MemoryBench bench;
  const PoolRecord* first = bench.pool(64 * kMiB);
  const GranuleIndex granule = bench.granule(first, 0);
  auto* bitmap = const_cast<std::uint32_t*>(bench.memory->kernels().bitmap());
  bitmap[granule / 32] |= 1u << granule % 32;
  const CUdeviceptr base = first->base;
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  const PoolRecord* second = bench.pool(64 * kMiB);
  EXPECT_EQ(second->base, base);
  EXPECT_EQ(bitmap[granule / 32] >> granule % 32 & 1u, 0u);
}

// I9 too: the guard sets the bits of its row some time after the answer.
TEST(DeviceMemoryAllocationTest, AddressesThatAnAnswerNamesMeanAnotherPoolOnlyAfterTheNextRequest) {
  MemoryBench bench;
  const PoolRecord* asking = bench.pool(64 * kMiB);
  const PoolRecord* sibling = bench.pool(64 * kMiB);
  const CUdeviceptr base = sibling->base;
  const FaultAnswer answer = bench.fault(asking, 0);
  ASSERT_TRUE(names(answer.runs, bench.granule(sibling, 0)));
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  EXPECT_NE(bench.pool(64 * kMiB)->base, base);
  bench.fault(asking, 1);  // so it has set them
  EXPECT_EQ(bench.pool(64 * kMiB)->base, base);
}

TEST(DeviceMemoryAllocationTest, AddressesThatAnAnswerNamesMeanAnotherPoolOnceNoGuardRuns) {
  MemoryBench bench;
  const PoolRecord* asking = bench.pool(64 * kMiB);
  const PoolRecord* sibling = bench.pool(64 * kMiB);
  const CUdeviceptr base = sibling->base;
  ASSERT_TRUE(names(bench.fault(asking, 0).runs, bench.granule(sibling, 0)));
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  bench.memory->no_guard_runs();
  sibling = bench.pool(64 * kMiB);
  EXPECT_EQ(sibling->base, base) << "freed before";
  ASSERT_TRUE(names(bench.fault(asking, 1).runs, bench.granule(sibling, 1)));
  bench.memory->no_guard_runs();
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  EXPECT_EQ(bench.pool(64 * kMiB)->base, base) << "freed after";
}

TEST(DeviceMemoryAllocationTest, AFirstAllocationThatFailsLeavesNothing) {
  for (const Call call : {Call::cuMemCreate, Call::cuMemMap, Call::cuMemSetAccess}) {
    const std::uint64_t calls = call == Call::cuMemCreate ? 4 : 5;  // zero handles
    for (std::uint64_t nth = 1; nth <= calls; ++nth) {
      MemoryBench bench;
      bench.driver.fail(call, nth, CUDA_ERROR_OUT_OF_MEMORY);
      const PoolRecord* record = nullptr;
      EXPECT_EQ(bench.memory->allocate(190 * kMiB, "kv", bench.driver.context(), &record),
                CUDA_ERROR_OUT_OF_MEMORY);
      bench.expect_empty();
      bench.driver.fail_nothing();
      bench.pool(bench.arena->bytes() / 2);
    }
  }
}

TEST(DeviceMemoryAllocationTest, AFailedClearingLosesNoAddresses) {
  MemoryBench bench({}, 2 * MemoryBench::kArena);
  constexpr std::uint64_t kMost = MemoryBench::kArena - kGiB;
  const PoolRecord* record = bench.pool(kMost);
  const CUdeviceptr base = record->base;
  EXPECT_EQ(bench.memory->free(base), CUDA_SUCCESS);
  bench.driver.fail(Call::cuLaunchKernel, 1, CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(bench.memory->allocate(kMost, "kv", bench.driver.context(), &record),
            CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(bench.memory->allocate(kMost, "kv", bench.driver.context(), &record), CUDA_SUCCESS);
}

// The releasing thread clears bits at any time: both use the device's stream.
TEST(DeviceMemoryAllocationTest, AnAllocationNeverSpoilsTheReleasersClearing) {
  MemoryBench bench;
  const PoolRecord* first = bench.pool(64 * kMiB);
  const PoolRecord* other = bench.pool(64 * kMiB);
  auto* bitmap = const_cast<std::uint32_t*>(bench.memory->kernels().bitmap());
  const GranuleIndex granule = bench.granule(other, 5);
  EXPECT_EQ(bench.memory->free(first->base), CUDA_SUCCESS);
  bitmap[granule / 32] |= 1u << granule % 32;
  // The releaser's clearing is queued and not yet executed when the allocation comes.
  bench.driver.hold(bench.memory->kernels().stream(), true);
  const AbiRun run{granule, 1};
  ASSERT_EQ(bench.memory->kernels().launch_clear(std::span(&run, 1)), CUDA_SUCCESS);
  std::thread allocation([&] { bench.pool(64 * kMiB); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  bench.driver.hold(bench.memory->kernels().stream(), false);
  allocation.join();
  EXPECT_EQ(bitmap[granule / 32] >> granule % 32 & 1u, 0u);
}

TEST(DeviceMemoryAllocationTest, AFullArenaOfRandomPoolsIsSoundThroughout) {
  MemoryBench bench;
  Random random(11);
  std::vector<const PoolRecord*> pools;
  for (int step = 0; step < 150; ++step) {
    if (pools.size() < 12 && random() % 3 != 0) {
      pools.push_back(bench.pool((1 + random() % 160) * kMiB, "g" + std::to_string(random() % 3)));
    } else if (!pools.empty()) {
      const std::size_t i = random() % pools.size();
      EXPECT_EQ(bench.memory->free(pools[i]->base), CUDA_SUCCESS);
      pools.erase(pools.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (!pools.empty()) {
      const PoolRecord* pool = pools[random() % pools.size()];
      const auto granules = static_cast<std::uint32_t>(pool->mapped_bytes / kGranuleBytes);
      bench.served(pool, random() % granules);
    }
    bench.expect_sound();
    if (::testing::Test::HasFailure()) return;
  }
  for (const PoolRecord* pool : pools) EXPECT_EQ(bench.memory->free(pool->base), CUDA_SUCCESS);
  bench.expect_empty();
}

}  // namespace
}  // namespace kvshim::vmm::testing
