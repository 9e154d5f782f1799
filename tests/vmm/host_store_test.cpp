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
  HostStore store_{mapper_, 64 * kMiB};
};

TEST_F(HostStoreTest, GivesHandlesUpToTheBudgetAndAsksTheDriverForNoMore) {
  CUmemGenericAllocationHandle a = 0, b = 0, c = 0;
  EXPECT_EQ(store_.take(4, &a), CUDA_SUCCESS);
  EXPECT_EQ(store_.take(4, &b), CUDA_SUCCESS);
  const std::uint64_t calls = driver_.calls(Call::cuMemCreate);
  EXPECT_EQ(store_.take(0, &c), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(driver_.calls(Call::cuMemCreate), calls);
  EXPECT_EQ(store_.room(), 0u);
}

TEST_F(HostStoreTest, AHandleGivenBackIsUsedAgainWithoutTheDriver) {
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_EQ(store_.take(2, &a), CUDA_SUCCESS);
  store_.give_back(2, a);
  const std::uint64_t calls = driver_.calls(Call::cuMemCreate);
  ASSERT_EQ(store_.take(2, &b), CUDA_SUCCESS);
  EXPECT_EQ(a, b);
  EXPECT_EQ(driver_.calls(Call::cuMemCreate), calls);
}

TEST_F(HostStoreTest, AHandleForAPageOfZerosWasNeverUsed) {
  CUmemGenericAllocationHandle used = 0, made = 0, zero = 0, next = 0;
  ASSERT_EQ(store_.take(1, &used), CUDA_SUCCESS);
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
  ASSERT_EQ(store_.take(4, &a), CUDA_SUCCESS);
  ASSERT_EQ(store_.take(4, &b), CUDA_SUCCESS);
  store_.give_back(4, a);
  ASSERT_EQ(store_.take_zero(0, &zero), CUDA_SUCCESS);
  EXPECT_EQ(store_.cached(), 0u);
  EXPECT_EQ(store_.in_use(), 34 * kMiB);
}

TEST_F(HostStoreTest, CachedHandlesOfOtherOrdersGiveWayWhenTheBudgetNeedsIt) {
  std::vector<CUmemGenericAllocationHandle> small(32);
  for (auto& handle : small) ASSERT_EQ(store_.take(0, &handle), CUDA_SUCCESS);
  for (auto handle : small) store_.give_back(0, handle);
  EXPECT_EQ(store_.cached(), 64 * kMiB);
  CUmemGenericAllocationHandle large = 0;
  EXPECT_EQ(store_.take(4, &large), CUDA_SUCCESS);
  EXPECT_LE(store_.in_use() + store_.cached(), 64 * kMiB);
}

TEST_F(HostStoreTest, AFailedCreationCountsNothing) {
  driver_.fail(Call::cuMemCreate, 1, CUDA_ERROR_OUT_OF_MEMORY);
  CUmemGenericAllocationHandle handle = 0;
  EXPECT_EQ(store_.take(3, &handle), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(store_.in_use(), 0u);
}

TEST_F(HostStoreTest, WantsSlabsOnlyWithinTheBudget) {
  EXPECT_TRUE(store_.wants(4, 1));
  EXPECT_FALSE(store_.wants(4, 0));
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_EQ(store_.take(4, &a), CUDA_SUCCESS);
  ASSERT_EQ(store_.take(3, &b), CUDA_SUCCESS);
  EXPECT_FALSE(store_.wants(4, 1));
  EXPECT_TRUE(store_.wants(3, 1));
}

// Between wants() and add_made() the lock is open: others may take the room.
TEST_F(HostStoreTest, ASlabMadeAheadNeverTakesItOverTheBudget) {
  CUmemGenericAllocationHandle a = 0, b = 0, made = 0;
  ASSERT_EQ(store_.take(4, &a), CUDA_SUCCESS);
  ASSERT_TRUE(store_.wants(4, 1));
  ASSERT_EQ(mapper_.create_host_uncounted(4, &made), CUDA_SUCCESS);
  ASSERT_EQ(store_.take(3, &b), CUDA_SUCCESS);
  store_.add_made(4, made);
  EXPECT_LE(store_.in_use() + store_.cached(), 64 * kMiB);
}

TEST_F(HostStoreTest, TrimReleasesWhatIsCachedAndNothingElse) {
  CUmemGenericAllocationHandle a = 0, b = 0;
  ASSERT_EQ(store_.take(4, &a), CUDA_SUCCESS);
  ASSERT_EQ(store_.take(1, &b), CUDA_SUCCESS);
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
      if (store_.take(order, &handle) == CUDA_SUCCESS) taken.emplace_back(order, handle);
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
