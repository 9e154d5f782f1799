#include "vmm/service_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <system_error>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define KVSHIM_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define KVSHIM_TEST_SANITIZED 1
#endif
#endif
#ifndef KVSHIM_TEST_SANITIZED
#define KVSHIM_TEST_SANITIZED 0
#endif

namespace kvshim::vmm {
namespace {

bool blocked(int signal) {
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  return sigismember(&now, signal) == 1;
}

TEST(ServiceThreadTest, TakesNoSignalsOfTheHost) {
  StopFlag stop;
  std::atomic<bool> terminate{false}, fault{true};
  start_service_thread(stop, [&] {
    terminate.store(blocked(SIGTERM) && blocked(SIGALRM));
    fault.store(blocked(SIGSEGV));
  });
  stop.request_and_wait();
  EXPECT_TRUE(terminate.load());
  EXPECT_FALSE(fault.load());
  EXPECT_FALSE(blocked(SIGTERM)) << "the host's own thread";
}

TEST(ServiceThreadTest, NobodyWaitsForAThreadThatCouldNotStart) {
#if KVSHIM_TEST_SANITIZED
  GTEST_SKIP() << "sanitizers choose the size of stacks themselves";
#else
  pthread_attr_t before, huge;
  ASSERT_EQ(pthread_getattr_default_np(&before), 0);
  ASSERT_EQ(pthread_attr_init(&huge), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&huge, std::size_t{1} << 47), 0);
  ASSERT_EQ(pthread_setattr_default_np(&huge), 0);
  StopFlag stop;
  EXPECT_THROW(start_service_thread(stop, [] {}), std::system_error);
  ASSERT_EQ(pthread_setattr_default_np(&before), 0);
  EXPECT_FALSE(blocked(SIGTERM));
  stop.request_and_wait();
#endif
}

}  // namespace
}  // namespace kvshim::vmm
