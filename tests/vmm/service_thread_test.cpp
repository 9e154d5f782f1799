#include "vmm/service_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <system_error>

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
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
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
