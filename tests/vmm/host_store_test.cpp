#include "vmm/host_store.h"

#include <gtest/gtest.h>

#include "tests/vmm/random.h"

#include "tests/vmm/fake_driver.h"

namespace kvshim::vmm::testing {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class HostStoreTest : public ::testing::Test {
 protected:
  ~HostStoreTest() override {
    EXPECT_EQ(store_.in_use() + store_.cached(), mapper_.physical().host);
    EXPECT_EQ(driver_.host_bytes(), mapper_.physical().host);
    EXPECT_TRUE(driver_.violations().empty());
  }
  FakeDriver driver_;
  Mapper mapper_{driver_.api(), 0, 0};
  /// A cached handle, else a new one.
  bool take(unsigned order, CUmemGenericAllocationHandle* handle) {
    if (store_.take_cached(order, handle)) return true;
    if (!store_.make_room_for(order)) return false;
    if (mapper_.create_host_uncounted(order, handle) != CUDA_SUCCESS) return false;
    EXPECT_TRUE(store_.add_made(order, *handle));
    return store_.take_cached(order, handle);
  }
  HostStore store_{driver_.api(), mapper_, 64 * kMiB};
};

TEST_F(HostStoreTest, GivesHandlesUpToTheBudgetAndAsksTheDriverForNoMore) {
  CUmemGenericAllocationHandle a = 0, b = 0, c = 0;
  EXPECT_TRUE(take(4, &a));
  EXPECT_TRUE(take(4, &b));
  const std::uint64_t calls = driver_.calls(Call::cuMemCreate);
  EXPECT_FALSE(take(0, &c));
  EXPECT_EQ(driver_.calls(Call::cuMemCreate), calls);
  EXPECT_EQ(store_.room(), 0u);
}

TEST_F(HostStoreTest, AHandleGivenBackIsUsedAgainWithoutTheDriver) {
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_TRUE(take(2, &a));
  store_.give_back(2, a);
  const std::uint64_t calls = driver_.calls(Call::cuMemCreate);
  ASSERT_TRUE(take(2, &b));
  EXPECT_EQ(a, b);
  EXPECT_EQ(driver_.calls(Call::cuMemCreate), calls);
}

TEST_F(HostStoreTest, AHandleForAPageOfZerosWasNeverUsed) {
  CUmemGenericAllocationHandle used = 0, made = 0, zero = 0, next = 0;
  ASSERT_TRUE(take(1, &used));
  store_.give_back(1, used);
  ASSERT_EQ(mapper_.create_host_uncounted(1, &made), CUDA_SUCCESS);
  store_.add_made(1, made);
  ASSERT_EQ(store_.take_zero(1, &zero), CUDA_SUCCESS);
  EXPECT_EQ(zero, made);
  ASSERT_EQ(store_.take_zero(1, &next), CUDA_SUCCESS);
  EXPECT_NE(next, used);
  EXPECT_EQ(store_.cached_of(1), 1u);
}

TEST_F(HostStoreTest, UsedHandlesGiveWayToAPageOfZeros) {
  CUmemGenericAllocationHandle a = 0, b = 0, zero = 0;
  ASSERT_TRUE(take(4, &a));
  ASSERT_TRUE(take(4, &b));
  store_.give_back(4, a);
  ASSERT_EQ(store_.take_zero(0, &zero), CUDA_SUCCESS);
  EXPECT_EQ(store_.cached(), 0u);
  EXPECT_EQ(store_.in_use(), 34 * kMiB);
}

TEST_F(HostStoreTest, CachedHandlesOfOtherOrdersGiveWayWhenTheBudgetNeedsIt) {
  std::vector<CUmemGenericAllocationHandle> small(32);
  for (auto& handle : small) ASSERT_TRUE(take(0, &handle));
  for (auto handle : small) store_.give_back(0, handle);
  EXPECT_EQ(store_.cached(), 64 * kMiB);
  CUmemGenericAllocationHandle large = 0;
  EXPECT_TRUE(take(4, &large));
  EXPECT_LE(store_.in_use() + store_.cached(), 64 * kMiB);
}

TEST_F(HostStoreTest, AFailedCreationCountsNothing) {
  driver_.fail(Call::cuMemCreate, 1, CUDA_ERROR_OUT_OF_MEMORY);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_FALSE(take(3, &handle));
  EXPECT_EQ(store_.in_use(), 0u);
}

TEST_F(HostStoreTest, WantsSlabsOnlyWithinTheBudget) {
  EXPECT_EQ(store_.order_to_make({0, 0, 0, 0, 1}), 4u);
  EXPECT_EQ(store_.order_to_make({}), kOrders);
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_TRUE(take(4, &a));
  ASSERT_TRUE(take(3, &b));
  EXPECT_EQ(store_.order_to_make({0, 0, 0, 0, 1}), kOrders);
  EXPECT_EQ(store_.order_to_make({0, 0, 0, 1, 1}), 3u);
}

// Cached slabs that nobody wants don't keep those from being made that are wanted.
TEST_F(HostStoreTest, SlabsThatAreNotWantedGiveWayToOnesThatAre) {
  std::vector<CUmemGenericAllocationHandle> small(32);
  for (auto& handle : small) ASSERT_TRUE(take(0, &handle));
  for (auto handle : small) store_.give_back(0, handle);
  const std::array<std::size_t, kOrders> wanted = {16, 0, 0, 0, 1};
  ASSERT_EQ(store_.order_to_make(wanted), 4u);
  CUmemGenericAllocationHandle made = 0;
  ASSERT_EQ(mapper_.create_host_uncounted(4, &made), CUDA_SUCCESS);
  EXPECT_TRUE(store_.add_made(4, made, wanted));
  EXPECT_EQ(store_.cached_of(4), 1u);
  EXPECT_EQ(store_.cached_of(0), 16u);
  EXPECT_EQ(store_.order_to_make(wanted), kOrders);
}

// --- windows ---------------------------------------------------------------------

TEST_F(HostStoreTest, AWindowThatIsNotSpareGoesWithItsSlab) {
  CUmemGenericAllocationHandle a = 0, again = 0;
  ASSERT_TRUE(take(2, &a));
  const CUdeviceptr window = store_.window(2, a);
  ASSERT_NE(window, 0u);
  EXPECT_EQ(driver_.mapping_bytes(window), order_bytes(2));
  EXPECT_FALSE(store_.unmap_spare_windows(SIZE_MAX)) << "it is needed";
  EXPECT_EQ(driver_.mapping_bytes(window), order_bytes(2));
  store_.give_back(2, a);
  const std::uint64_t maps = driver_.calls(Call::cuMemMap);
  ASSERT_TRUE(take(2, &again));
  EXPECT_EQ(store_.window(2, again), window);
  EXPECT_EQ(driver_.calls(Call::cuMemMap), maps);
  store_.give_back(2, again);
  store_.trim(0);
  EXPECT_EQ(driver_.mapping_bytes(window), 0u);
  EXPECT_EQ(driver_.host_bytes(), 0u) << "a mapping would keep the memory alive";
  EXPECT_EQ(driver_.reservations(), 0u);
}

// Page tables of a window are GPU memory.
TEST_F(HostStoreTest, ASlabThatHoldsContentsKeepsNoWindow) {
  std::array<CUmemGenericAllocationHandle, 3> slabs{};
  std::array<CUdeviceptr, 3> windows{};
  for (std::size_t i = 0; i < slabs.size(); ++i) {
    ASSERT_TRUE(take(2, &slabs[i]));
    windows[i] = store_.window(2, slabs[i]);
    store_.window_is_spare(slabs[i]);
  }
  EXPECT_TRUE(store_.unmap_spare_windows(1)) << "a few at a time";
  EXPECT_FALSE(store_.unmap_spare_windows(2));
  for (const CUdeviceptr window : windows) EXPECT_EQ(driver_.mapping_bytes(window), 0u);
  EXPECT_EQ(driver_.host_bytes(), 3 * order_bytes(2)) << "the slabs themselves stay";
}

TEST_F(HostStoreTest, AWindowThatIsNeededAgainIsNotSpare) {
  CUmemGenericAllocationHandle a = 0, cached = 0, again = 0;
  ASSERT_TRUE(take(2, &a));
  ASSERT_TRUE(take(1, &cached));
  const CUdeviceptr window = store_.window(2, a);
  const CUdeviceptr other = store_.window(1, cached);
  store_.window_is_spare(a);
  store_.window_is_spare(a);
  store_.window_is_spare(cached);
  store_.give_back(1, cached);
  store_.give_back(2, a);
  ASSERT_TRUE(take(2, &again));
  ASSERT_EQ(store_.window(2, again), window);
  EXPECT_FALSE(store_.unmap_spare_windows(SIZE_MAX));
  EXPECT_EQ(driver_.mapping_bytes(window), order_bytes(2));
  EXPECT_EQ(driver_.mapping_bytes(other), 0u) << "of a slab in the cache";
  store_.give_back(2, again);
  EXPECT_FALSE(store_.unmap_spare_windows(1));
  EXPECT_EQ(driver_.mapping_bytes(window), 0u);
  store_.trim(0);
  EXPECT_EQ(driver_.reservations(), 0u);
}

TEST_F(HostStoreTest, ASlabMadeAheadThatIsUsedForZerosKeepsNoWindow) {
  CUmemGenericAllocationHandle made = 0, zero = 0;
  ASSERT_EQ(mapper_.create_host_uncounted(1, &made), CUDA_SUCCESS);
  store_.add_made(1, made);
  EXPECT_TRUE(store_.map_windows_ahead({0, 1}));
  EXPECT_FALSE(store_.map_windows_ahead({0, 1}));
  const std::uint64_t unmaps = driver_.calls(Call::cuMemUnmap);
  ASSERT_EQ(store_.take_zero(1, &zero), CUDA_SUCCESS);
  EXPECT_FALSE(store_.unmap_spare_windows(SIZE_MAX));
  EXPECT_EQ(driver_.calls(Call::cuMemUnmap), unmaps + 1);
}

// Those that will be taken, and no others.
TEST_F(HostStoreTest, WindowsAreMappedAheadOfWhatIsWanted) {
  std::vector<CUmemGenericAllocationHandle> slabs(10);
  for (auto& slab : slabs) ASSERT_TRUE(take(0, &slab));
  for (auto slab : slabs) store_.give_back(0, slab);
  const std::uint64_t maps = driver_.calls(Call::cuMemMap);
  const std::array<std::size_t, kOrders> wanted = {6};
  EXPECT_TRUE(store_.map_windows_ahead(wanted));
  EXPECT_EQ(driver_.calls(Call::cuMemMap), maps + 4) << "a few at a time";
  EXPECT_TRUE(store_.map_windows_ahead(wanted));
  EXPECT_FALSE(store_.map_windows_ahead(wanted));
  EXPECT_EQ(driver_.calls(Call::cuMemMap), maps + 6);
  for (std::size_t i = 0; i < wanted[0]; ++i) {
    CUmemGenericAllocationHandle slab = 0;
    ASSERT_TRUE(store_.take_cached(0, &slab));
    EXPECT_NE(store_.window(0, slab), 0u);
  }
  EXPECT_EQ(driver_.calls(Call::cuMemMap), maps + 6);
}

TEST_F(HostStoreTest, AWindowAheadThatIsRefusedIsMappedWhenItIsNeeded) {
  CUmemGenericAllocationHandle a = 0, again = 0;
  ASSERT_TRUE(take(2, &a));
  store_.give_back(2, a);
  driver_.fail(Call::cuMemSetAccess, 1, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_FALSE(store_.map_windows_ahead({0, 0, 1}));
  ASSERT_TRUE(take(2, &again));
  EXPECT_NE(store_.window(2, again), 0u);
}

TEST_F(HostStoreTest, AWindowThatIsRefusedIsTriedAgain) {
  CUmemGenericAllocationHandle a = 0;
  ASSERT_TRUE(take(2, &a));
  for (const Call call : {Call::cuMemAddressReserve, Call::cuMemMap, Call::cuMemSetAccess}) {
    driver_.fail(call, 1, CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(store_.window(2, a), 0u);
  }
  EXPECT_NE(store_.window(2, a), 0u);
}

// Between order_to_make() and add_made() the lock is open: others may take the room.
TEST_F(HostStoreTest, ASlabMadeAheadNeverTakesItOverTheBudget) {
  CUmemGenericAllocationHandle a = 0, b = 0, made = 0;
  ASSERT_TRUE(take(4, &a));
  ASSERT_EQ(store_.order_to_make({0, 0, 0, 0, 1}), 4u);
  ASSERT_EQ(mapper_.create_host_uncounted(4, &made), CUDA_SUCCESS);
  ASSERT_TRUE(take(3, &b));
  EXPECT_FALSE(store_.add_made(4, made));
  EXPECT_LE(store_.in_use() + store_.cached(), 64 * kMiB);
}

TEST_F(HostStoreTest, TrimReleasesWhatIsCachedAndNothingElse) {
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_TRUE(take(4, &a));
  ASSERT_TRUE(take(1, &b));
  store_.give_back(1, b);
  store_.trim(0);
  EXPECT_EQ(store_.cached(), 0u);
  EXPECT_EQ(store_.in_use(), 32 * kMiB);
}

TEST_F(HostStoreTest, RandomUseStaysWithinTheBudget) {
  Random random(5);
  std::vector<std::pair<unsigned, CUmemGenericAllocationHandle>> taken;
  for (int step = 0; step < 3000; ++step) {
    if (taken.empty() || random() % 2 == 0) {
      const unsigned order = random() % kOrders;
      CUmemGenericAllocationHandle handle = 0;
      if (take(order, &handle)) taken.emplace_back(order, handle);
    } else {
      const std::size_t i = random() % taken.size();
      store_.give_back(taken[i].first, taken[i].second);
      taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(i));
    }
    ASSERT_LE(store_.in_use() + store_.cached(), 64 * kMiB);
    ASSERT_EQ(driver_.host_bytes(), store_.in_use() + store_.cached());
  }
}

}  // namespace
}  // namespace kvshim::vmm::testing
