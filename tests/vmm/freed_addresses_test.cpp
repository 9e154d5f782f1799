#include "vmm/freed_addresses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvshim::vmm::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr GranuleRun kFirst{0, 32}, kSecond{32, 32}, kThird{96, 32};

TEST(FreedAddressesTest, AreSettledWhenNoAnswerNamedThem) {
  FreedAddresses freed;
  freed.asked();
  freed.told({{16, 16}, {64, 32}});
  freed.add(kSecond);
  freed.add(kThird);
  EXPECT_THAT(freed.take_settled(), ElementsAre(kSecond, kThird));
  EXPECT_THAT(freed.take_settled(), IsEmpty());
}

TEST(FreedAddressesTest, WaitForTheNextRequestWhenTheLastAnswerNamedThem) {
  FreedAddresses freed;
  freed.asked();
  freed.told({{31, 2}});
  freed.add(kFirst);
  freed.add(kSecond);
  freed.add(kThird);
  EXPECT_THAT(freed.take_settled(), ElementsAre(kThird));
  freed.asked();
  EXPECT_THAT(freed.take_settled(), ElementsAre(kFirst, kSecond));
}

TEST(FreedAddressesTest, AreSettledOnceNoGuardRuns) {
  FreedAddresses freed;
  freed.asked();
  freed.told({{0, 64}});
  freed.add(kFirst);
  freed.no_guard_runs();
  freed.add(kSecond);
  EXPECT_THAT(freed.take_settled(), ElementsAre(kFirst, kSecond));
}

TEST(FreedAddressesTest, ThoseThatCouldNotBeClearedAreSettledStill) {
  FreedAddresses freed;
  freed.add(kFirst);
  const std::vector<GranuleRun> taken = freed.take_settled();
  freed.asked();
  freed.told({{0, 32}});
  freed.put_back(taken);
  EXPECT_THAT(freed.take_settled(), ElementsAre(kFirst));
}

TEST(FreedAddressesTest, AllGoWithTheBitmap) {
  FreedAddresses freed;
  freed.asked();
  freed.told({{0, 32}});
  freed.add(kFirst);
  EXPECT_THAT(freed.take_all(), ElementsAre(kFirst));
}

}  // namespace
}  // namespace kvshim::vmm::testing
