#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "segment/contents.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

TEST(IdentityTest, NamesThisProcess) {
  const Identity self = own_identity();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_EQ(self.uid, geteuid());
  EXPECT_NE(self.start_time, 0u);
  EXPECT_NE(self.pid_namespace, 0u);
  EXPECT_NE(self.boot, 0u);
  EXPECT_EQ(self.name.str(), "segment_test");
  EXPECT_NE(self.command_line.str().find("segment_test"), std::string::npos);
  EXPECT_EQ(self.version.str(), KVSHIM_VERSION);
  EXPECT_TRUE(is_running_here(self));
}

TEST(IdentityTest, AReusedPidIsNotTheProcessItWas) {
  Identity other = own_identity();
  other.start_time -= 1;  // same pid, born at another time
  EXPECT_FALSE(is_running_here(other));
}

TEST(IdentityTest, APidOfAnotherNamespaceOrBootIsNotOurs) {
  Identity elsewhere = own_identity();
  elsewhere.pid_namespace += 1;
  EXPECT_FALSE(is_running_here(elsewhere));
  Identity earlier = own_identity();
  earlier.boot += 1;
  EXPECT_FALSE(is_running_here(earlier));
  Identity unknown;
  unknown.pid = getpid();
  EXPECT_FALSE(is_running_here(unknown)) << "what isn't known is no match";
  Identity hostile = own_identity();
  for (const int pid : {0, -1, -getpid()}) {  // kill() would take these for groups
    hostile.pid = pid;
    EXPECT_FALSE(is_running_here(hostile));
  }
}

TEST(IdentityTest, AZombieIsNotRunning) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child child([&] {
    const Identity self = own_identity();
    return write(ends[1], &self, sizeof(self)) == sizeof(self) ? pause() : 1;
  });
  Identity identity;
  ASSERT_EQ(read(ends[0], &identity, sizeof(identity)), static_cast<ssize_t>(sizeof(identity)));
  close(ends[0]);
  close(ends[1]);
  EXPECT_TRUE(is_running_here(identity));
  ::kill(child.pid(), SIGKILL);
  EXPECT_TRUE(eventually([&] { return !is_running_here(identity); }));
}

}  // namespace
}  // namespace kvshim::segment
