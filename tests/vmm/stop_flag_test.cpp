#include "vmm/stop_flag.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace kvshim::vmm {
namespace {

TEST(StopFlagTest, ReturnsAtOnceWhenNoThreadStarted) {
  StopFlag flag;
  flag.request_and_wait();
  EXPECT_TRUE(flag.requested());
}

TEST(StopFlagTest, ReturnsOnlyAfterTheThreadEnded) {
  StopFlag flag;
  std::atomic<bool> ended{false};
  flag.thread_starts();
  std::thread thread([&] {
    while (!flag.requested()) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ended.store(true);
    flag.thread_ended();
  });
  flag.request_and_wait();
  EXPECT_TRUE(ended.load());
  thread.join();
}

TEST(StopFlagTest, ReturnsAtOnceWhenTheThreadHasEnded) {
  StopFlag flag;
  flag.thread_starts();
  std::thread([&] { flag.thread_ended(); }).join();
  flag.request_and_wait();
}

}  // namespace
}  // namespace kvshim::vmm
