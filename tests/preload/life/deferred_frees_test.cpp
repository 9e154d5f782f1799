#include "preload/deferred_frees.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace kvshim::preload {
namespace {

constexpr auto kAll = [](const DeferredFree&) { return true; };

class DeferredFreesTest : public ::testing::Test {
 protected:
  ~DeferredFreesTest() override {
    for (std::list<DeferredFree> left = deferred_frees().take(kAll); !left.empty();) {
      deferred_frees().settle(&left, true);
    }
  }
};

TEST_F(DeferredFreesTest, OnlyThoseAreTakenWhoseTimeHasCome) {
  deferred_frees().add({1, 11, nullptr, false});
  deferred_frees().add({2, 12, nullptr, true});
  std::list<DeferredFree> taken =
      deferred_frees().take([](const DeferredFree& one) { return one.behind_all; });
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken.front().pool, 12u);
  deferred_frees().settle(&taken, true);
  EXPECT_TRUE(taken.empty());
  EXPECT_TRUE(deferred_frees().any());
}

TEST_F(DeferredFreesTest, WhatIsTakenCountsUntilItHasGone) {
  deferred_frees().add({1, 11, nullptr, false});
  std::list<DeferredFree> taken = deferred_frees().take(kAll);
  EXPECT_TRUE(deferred_frees().any());
  EXPECT_TRUE(deferred_frees().take(kAll).empty());
  taken.front().behind_all = true;
  deferred_frees().settle(&taken, false);
  taken = deferred_frees().take(kAll);
  ASSERT_EQ(taken.size(), 1u) << "it waits again";
  EXPECT_TRUE(taken.front().behind_all);
  deferred_frees().settle(&taken, true);
  EXPECT_FALSE(deferred_frees().any());
}

// The lock may be held by a thread that doesn't exist there.
TEST_F(DeferredFreesTest, AForkedChildStartsWithout) {
  deferred_frees().add({1, 11, nullptr, false});
  std::atomic<bool> inside{false}, leave{false};
  std::thread holder([&] {
    deferred_frees().take([&](const DeferredFree&) {
      inside = true;
      while (!leave) std::this_thread::yield();
      return false;
    });
  });
  while (!inside) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    forget_deferred_frees_after_fork();
    const bool fresh = !deferred_frees().any();
    deferred_frees().add({2, 12, nullptr, false});
    _exit(fresh && deferred_frees().any() ? 0 : 1);
  }
  leave = true;
  holder.join();
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(deferred_frees().any());
}

}  // namespace
}  // namespace kvshim::preload
