// Every driver call of every operation fails once, in turn: the mapping is back,
// nothing leaks, contents are right, and the operation works afterwards.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "tests/vmm/engine_bench.h"

namespace kvshim::vmm::testing {
namespace {

// What the mechanism calls and what may fail. (A release fails only when the
// driver is shutting down: DriverShutdownTest.)
struct Fault {
  Call call;
  const char* name;
  CUresult error;
};
constexpr Fault kFaults[] = {
    {Call::cuMemCreate, "cuMemCreate", CUDA_ERROR_OUT_OF_MEMORY},
    {Call::cuMemMap, "cuMemMap", CUDA_ERROR_OUT_OF_MEMORY},
    {Call::cuMemSetAccess, "cuMemSetAccess", CUDA_ERROR_OUT_OF_MEMORY},
    {Call::cuMemUnmap, "cuMemUnmap", CUDA_ERROR_INVALID_VALUE},
    {Call::cuMemAddressReserve, "cuMemAddressReserve", CUDA_ERROR_OUT_OF_MEMORY},
    {Call::cuMemGetInfo_v2, "cuMemGetInfo", CUDA_ERROR_UNKNOWN},
    {Call::cuLaunchKernel, "cuLaunchKernel", CUDA_ERROR_UNKNOWN},
    {Call::cuStreamQuery, "cuStreamQuery", CUDA_ERROR_UNKNOWN},
};

/// Two sibling pools with contents in granules 2 to 5 and, parked, 20 and 21.
struct World {
  MemoryBench bench{{.host_budget = 256 * kMiB, .read_ahead_max = kNoReadAhead}};
  const PoolRecord* a = nullptr;
  const PoolRecord* b = nullptr;

  World() {
    a = bench.pool(100 * kMiB);
    b = bench.pool(100 * kMiB);
    for (const std::uint32_t g : {20u, 21u}) make(g);
    bench.park_all();
    for (std::uint32_t g = 2; g < 6; ++g) make(g);
  }
  void make(std::uint32_t g) {
    bench.served(a, g);
    bench.write(a, g, 100 + g);
    bench.write(b, g, 200 + g);
  }
  void expect_contents(bool first = true, bool second = true) {
    for (const std::uint32_t g : {2u, 3u, 4u, 5u, 20u, 21u}) {
      if (first) {
        EXPECT_TRUE(bench.holds(a, g, 100 + g)) << g;
      }
      if (second) {
        EXPECT_TRUE(bench.holds(b, g, 200 + g)) << g;
      }
    }
  }
  void expect_all_mapped(const PoolRecord* pool) {
    for (std::uint32_t g = 0; g < pool->mapped_bytes / kGranuleBytes; ++g) {
      ASSERT_NE(bench.driver.mapped(bench.address(pool, g)), FakeDriver::Mapped::kHole)
          << "I2: granule " << g;
    }
  }
};

struct Operation {
  const char* name;
  std::function<void(World&)> run;
};

const Operation kOperations[] = {
    {"AllocateAndFree",
     [](World& w) {
       const PoolRecord* made = nullptr;
       if (w.bench.memory->allocate(77 * kMiB, "kv", w.bench.driver.context(), &made) ==
           CUDA_SUCCESS) {
         w.bench.driver.fail_nothing();
         EXPECT_EQ(w.bench.memory->free(made->base), CUDA_SUCCESS);
       }
     }},
    {"FaultRow", [](World& w) { w.bench.served(w.a, 30, 3); }},
    {"FaultExact", [](World& w) { w.bench.served(w.b, 27, 14, false); }},
    {"Promote",
     [](World& w) {
       const FaultAnswer answer = w.bench.fault(w.a, 20, 2);
       if (answer.kind != AnswerKind::kCopyFirst) return;
       for (const AbiCopy& copy : answer.copies) w.bench.copy(copy);
       w.bench.memory->copied();
     }},
    {"PromoteAbandoned",
     [](World& w) {
       w.bench.fault(w.a, 20, 2);
       w.bench.fault(w.a, 2);  // another guard
     }},
    {"Park", [](World& w) { w.bench.park_all(5); }},
    {"ParkCancelled",
     [](World& w) {
       for (const ExtentName& name : w.bench.resident()) {
         PreparedPark prepared;
         if (w.bench.memory->prepare_park(name, &prepared) == Preparation::kDone) {
           w.bench.memory->cancel_park(prepared);
         }
       }
     }},
    {"ParkMerged", [](World& w) { w.bench.park_merged(); }},
    {"Return", [](World& w) { w.bench.bring_back(w.bench.parked()); }},
    {"ReturnMerged", [](World& w) { w.bench.bring_back(w.bench.memory->blocks_to_return()); }},
    {"ReturnCancelled",
     [](World& w) {
       for (const ExtentName& name : w.bench.memory->blocks_to_return()) {
         PreparedPark prepared;
         if (w.bench.memory->prepare_return(name, 0, &prepared) == Preparation::kDone) {
           w.bench.memory->cancel_return(prepared);
         }
       }
       w.bench.memory->release_retired();
     }},
    {"Slabs",
     [](World& w) {
       while (w.bench.memory->make_slabs_ahead()) continue;
     }},
    {"SpareWindows",
     [](World& w) {
       w.bench.park_merged();
       while (w.bench.memory->unmap_spare_windows()) continue;
       w.bench.bring_back(w.bench.parked());
       while (w.bench.memory->make_slabs_ahead()) continue;
     }},
};

class FailureSweepTest : public ::testing::TestWithParam<std::tuple<std::size_t, std::size_t>> {};

TEST_P(FailureSweepTest, NothingIsLostWhereverItFails) {
  const Fault& fault = kFaults[std::get<0>(GetParam())];
  const Operation& operation = kOperations[std::get<1>(GetParam())];
  std::uint64_t calls = 0;
  {
    World world;
    const std::uint64_t before = world.bench.driver.calls(fault.call);
    operation.run(world);
    calls = world.bench.driver.calls(fault.call) - before;
    world.expect_contents();
    if (HasFailure()) return;
  }
  for (std::uint64_t nth = 1; nth <= calls; ++nth) {
    SCOPED_TRACE(std::string(operation.name) + ", failing call " + std::to_string(nth));
    World world;
    world.bench.driver.fail(fault.call, nth, fault.error);
    operation.run(world);
    world.bench.driver.fail_nothing();
    world.expect_all_mapped(world.a);
    world.expect_all_mapped(world.b);
    world.expect_contents();
    world.bench.expect_sound();
    if (HasFailure()) return;
    // All works again, and all goes away in the end.
    operation.run(world);
    world.expect_contents();
    // Ends what is pending, which a free would wait for, and begins nothing: no
    // operation parks this granule.
    EXPECT_EQ(world.bench.fault(world.a, 45).kind, AnswerKind::kPresent);
    EXPECT_EQ(world.bench.memory->free(world.a->base), CUDA_SUCCESS);
    world.expect_contents(false, true);
    EXPECT_EQ(world.bench.memory->free(world.b->base), CUDA_SUCCESS);
    world.bench.memory->release_retired();
    world.bench.expect_empty();
    if (HasFailure()) return;
  }
}

std::string sweep_name(const ::testing::TestParamInfo<std::tuple<std::size_t, std::size_t>>& info) {
  return std::string(kOperations[std::get<1>(info.param)].name) + "_" +
         kFaults[std::get<0>(info.param)].name;
}

INSTANTIATE_TEST_SUITE_P(EveryCall, FailureSweepTest,
                         ::testing::Combine(::testing::Range(std::size_t{0}, std::size(kFaults)),
                                            ::testing::Range(std::size_t{0},
                                                             std::size(kOperations))),
                         sweep_name);

// Making extents absent loses contents by intention: a test of its own.
TEST(FailureSweepAbsentTest, ARefusedReleaseLeavesTheOldContents) {
  for (const Call call : {Call::cuMemUnmap, Call::cuMemMap, Call::cuMemSetAccess}) {
    for (std::uint64_t nth = 1; nth <= 3; ++nth) {
      World world;
      const std::vector<ExtentName> names = world.bench.resident();
      world.bench.driver.fail(call, nth, CUDA_ERROR_OUT_OF_MEMORY);
      world.bench.memory->swap_to_absent(names, ProofOfAbsence::kDroppedByRule);
      world.bench.driver.fail_nothing();
      world.bench.memory->release_retired();
      world.bench.expect_sound();
      for (const PoolRecord* pool : {world.a, world.b}) {
        world.expect_all_mapped(pool);
        for (std::uint32_t g = 2; g < 6; ++g) {
          const std::uint64_t value = (pool == world.a ? 100 : 200) + g;
          EXPECT_TRUE(world.bench.is_zero(pool, g) || world.bench.holds(pool, g, value));
        }
        for (const std::uint32_t g : {20u, 21u}) {
          EXPECT_TRUE(world.bench.holds(pool, g, (pool == world.a ? 100 : 200) + g));
        }
      }
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// At exit the driver answers everything with DEINITIALIZED.
TEST(DriverShutdownTest, ADriverThatIsGoneBreaksNothing) {
  World world;
  constexpr std::uint64_t kForGood = 1'000'000;
  for (const Fault& fault : kFaults) {
    world.bench.driver.fail(fault.call, 1, CUDA_ERROR_DEINITIALIZED, kForGood);
  }
  world.bench.driver.fail(Call::cuMemRelease, 1, CUDA_ERROR_DEINITIALIZED, kForGood);
  for (const Operation& operation : kOperations) {
    if (std::string(operation.name) == "Slabs") continue;
    operation.run(world);
  }
  EXPECT_EQ(world.bench.memory->broken_invariant(), "");
  world.bench.driver.fail_nothing();
  world.expect_contents();
}

// A device that can't be set up leaves nothing behind.
TEST(KernelCreationTest, AFailedCreationLeavesNothing) {
  for (const Call call :
       {Call::cuLibraryLoadData, Call::cuLibraryGetKernel, Call::cuStreamCreateWithPriority,
        Call::cuMemCreate, Call::cuMemAddressReserve, Call::cuMemMap, Call::cuMemSetAccess,
        Call::cuMemsetD8Async, Call::cuMemHostAlloc, Call::cuMemHostGetDevicePointer_v2,
        Call::cuLaunchKernel, Call::cuStreamQuery}) {
    for (std::uint64_t nth = 1; nth <= 4; ++nth) {
      FakeDriver driver;
      CUresult error = CUDA_SUCCESS;
      std::optional<Arena> arena = Arena::reserve(driver.api(), kGiB, &error);
      ASSERT_TRUE(arena);
      driver.fail(call, nth, CUDA_ERROR_UNKNOWN);
      std::string why;
      auto kernels = DeviceKernels::create(driver.api(), *arena, 0, "", &why);
      if (kernels != nullptr) continue;  // fewer calls than that
      EXPECT_NE(why.find("failed"), std::string::npos) << why;
      driver.fail_nothing();
      EXPECT_EQ(driver.live_handles(), 0u) << why;
      EXPECT_EQ(driver.reservations(), 1u) << why;
      EXPECT_EQ(driver.pinned_bytes(), 0u) << why;
      for (const std::string& what : driver.violations()) ADD_FAILURE() << why << ": " << what;
    }
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
