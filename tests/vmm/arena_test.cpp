#include "vmm/arena.h"

#include <gtest/gtest.h>

#include <vector>
#include "tests/vmm/random.h"

#include "tests/vmm/fake_driver.h"

namespace kvshim::vmm::testing {
namespace {

constexpr std::uint64_t kFourGiB = std::uint64_t{4} << 30;
constexpr std::uint32_t kUnit = order_granules(kMaxOrder);

class ArenaTest : public ::testing::Test {
 protected:
  std::optional<Arena> reserve(std::size_t bytes) {
    return Arena::reserve(driver_.api(), bytes, &error_);
  }
  FakeDriver driver_;
  CUresult error_ = CUDA_SUCCESS;
};

TEST_F(ArenaTest, LiesAtAHighAddressAlignedForTheLargestExtent) {
  const std::optional<Arena> arena = reserve(kFourGiB);
  ASSERT_TRUE(arena);
  EXPECT_GE(arena->base(), std::uint64_t{1} << 41);
  EXPECT_EQ(arena->base() % order_bytes(kMaxOrder), 0u);
  EXPECT_EQ(arena->granules(), kFourGiB / kGranuleBytes);
}

TEST_F(ArenaTest, TriesHalfTheSizeWhenTheDriverRefuses) {
  driver_.fail(Call::cuMemAddressReserve, 1, CUDA_ERROR_OUT_OF_MEMORY, 2);
  const std::optional<Arena> arena = reserve(std::size_t{256} << 30);
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->bytes(), std::size_t{64} << 30);
}

TEST_F(ArenaTest, TellsTheErrorWhenNothingCanBeReserved) {
  driver_.fail(Call::cuMemAddressReserve, 1, CUDA_ERROR_OUT_OF_MEMORY, 100);
  EXPECT_FALSE(reserve(std::size_t{1} << 40));
  EXPECT_EQ(error_, CUDA_ERROR_OUT_OF_MEMORY);
}

TEST_F(ArenaTest, NoPoolStartsAtAMultipleOfFourGiB) {
  std::optional<Arena> arena = reserve(4 * kFourGiB);
  ASSERT_TRUE(arena);
  while (const std::optional<GranuleIndex> first = arena->take(3 * kUnit)) {
    EXPECT_NE(arena->address(*first) % kFourGiB, 0u);
    EXPECT_EQ(arena->address(*first) % order_bytes(kMaxOrder), 0u);
  }
}

TEST_F(ArenaTest, AnEndPointerNeverLiesInTheNextPool) {
  std::optional<Arena> arena = reserve(kFourGiB);
  ASSERT_TRUE(arena);
  const std::optional<GranuleIndex> a = arena->take(kUnit), b = arena->take(1), c = arena->take(1);
  ASSERT_TRUE(a && b && c);
  EXPECT_GE(*b, *a + kUnit + kUnit);
  EXPECT_GE(*c, *b + 1 + kUnit);
}

TEST_F(ArenaTest, IsFullWhenNothingFitsAndUsableAgainAfterGivingBack) {
  std::optional<Arena> arena = reserve(kFourGiB);
  ASSERT_TRUE(arena);
  EXPECT_FALSE(arena->take(arena->granules()));
  const std::optional<GranuleIndex> most = arena->take(arena->granules() - 2 * kUnit);
  ASSERT_TRUE(most);
  EXPECT_FALSE(arena->take(1));
  arena->give_back(*most, arena->granules() - 2 * kUnit);
  EXPECT_EQ(arena->take(arena->granules() - 2 * kUnit), most);
}

TEST_F(ArenaTest, RandomTakingAndGivingNeverOverlapsAndLosesNothing) {
  std::optional<Arena> arena = reserve(2 * kFourGiB);
  ASSERT_TRUE(arena);
  struct Taken {
    GranuleIndex first;
    std::uint32_t count;
  };
  std::vector<Taken> taken;
  Random random(7);
  for (int step = 0; step < 4000; ++step) {
    if (taken.empty() || random() % 5 < 3) {
      const std::uint32_t count = 1 + random() % (12 * kUnit);
      const std::optional<GranuleIndex> first = arena->take(count);
      if (!first) continue;
      EXPECT_EQ(*first % kUnit, 0u);
      EXPECT_LE(*first + count, arena->granules());
      for (const Taken& other : taken) {
        EXPECT_TRUE(*first + count + kUnit <= other.first ||
                    other.first + other.count + kUnit <= *first);
      }
      taken.push_back({*first, count});
    } else {
      const std::size_t i = random() % taken.size();
      arena->give_back(taken[i].first, taken[i].count);
      taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  for (const Taken& one : taken) arena->give_back(one.first, one.count);
  // One free range again: all but the unit at a multiple of 4 GiB and a gap.
  EXPECT_TRUE(arena->take(arena->granules() - 2 * kUnit));
}

}  // namespace
}  // namespace kvshim::vmm::testing
