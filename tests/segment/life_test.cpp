// Who lives and who is dead: the kernel's lock says it, nothing else.
#include <gtest/gtest.h>
#include <spawn.h>

#include "segment/file_lock.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"
#include "tests/segment/mapped_file.h"

extern char** environ;

namespace kvshim::segment {
namespace {

class LifeTest : public SegmentTest {
 protected:
  bool live(pid_t pid) const {
    for (const GpuSnapshot& gpu : read_all(folder_)) {
      for (const RecordSnapshot& record : gpu.records) {
        if (record.identity.pid == pid && record.live) return true;
      }
    }
    return false;
  }
  bool known(pid_t pid) const {
    for (const GpuSnapshot& gpu : read_all(folder_)) {
      for (const RecordSnapshot& record : gpu.records) {
        if (record.identity.pid == pid) return true;
      }
    }
    return false;
  }
};

TEST_F(LifeTest, AKilledProcessIsDeadAtOnceAndItsRecordFreedByATick) {
  auto witness = join();
  Child child([&] {
    auto owner = join();
    return pause();
  });
  ASSERT_TRUE(eventually([&] { return live(child.pid()); }));
  const pid_t pid = child.pid();
  child.kill();
  EXPECT_FALSE(live(pid));
  EXPECT_TRUE(known(pid)) << "its last figures can be looked at";
  const Tick said = witness->tick();
  ASSERT_EQ(said.died.size(), 1u);
  EXPECT_EQ(said.died[0].pid, pid);
  ASSERT_EQ(said.news.size(), 1u);
  EXPECT_FALSE(known(pid));
  EXPECT_TRUE(witness->tick().died.empty());
}

TEST_F(LifeTest, ADeadProcessesRecordIsTakenByTheNextWithNothingOfIt) {
  Child child([&] {
    auto owner = join();
    Figures figures;
    figures.resident = 99;
    owner->publish(figures, {});
    owner->post_need(99, NeedKind::kFault);
    return pause();
  });
  ASSERT_TRUE(eventually([&] {
    const auto all = read_all(folder_);
    return !all.empty() && !all[0].records.empty() && all[0].records[0].need.bytes == 99;
  }));
  child.kill();
  auto owner = join();
  EXPECT_EQ(owner->index(), 0u);
  const GpuSnapshot gpu = snapshot();
  ASSERT_EQ(gpu.records.size(), 1u);
  EXPECT_EQ(gpu.records[0].figures.resident, 0u);
  EXPECT_EQ(gpu.records[0].need.bytes, 0u);
  EXPECT_EQ(gpu.records[0].identity.pid, getpid());
}

TEST_F(LifeTest, APidThatIsReusedDoesNotKeepARecordAlive) {
  Identity mine = own_identity();
  Child child([&] {  // says that it is this process, which lives
    auto owner = join({}, mine);
    return pause();
  });
  ASSERT_TRUE(eventually([&] { return live(mine.pid); }));
  child.kill();
  EXPECT_FALSE(live(mine.pid));
}

TEST_F(LifeTest, AStoppedProcessLives) {
  auto witness = join();
  Child child([&] {
    auto owner = join();
    return pause();
  });
  ASSERT_TRUE(eventually([&] { return live(child.pid()); }));
  ::kill(child.pid(), SIGSTOP);
  EXPECT_TRUE(witness->tick().died.empty());
  EXPECT_TRUE(live(child.pid()));
}

TEST_F(LifeTest, AForkedChildDoesNotKeepItsParentsRecord) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child parent([&] {
    auto owner = join();
    const pid_t child = fork();
    if (child == 0) {
      owner->abandon_after_fork();  // what the shim's handler does
      const pid_t self = getpid();
      if (write(ends[1], &self, sizeof(self)) != sizeof(self)) _exit(1);
      alarm(30);
      _exit(pause());
    }
    return pause();
  });
  pid_t grandchild = 0;
  close(ends[1]);  // the other end is the child alone
  ASSERT_EQ(read(ends[0], &grandchild, sizeof(grandchild)), static_cast<ssize_t>(sizeof(pid_t)));
  close(ends[0]);
  const pid_t pid = parent.pid();
  EXPECT_TRUE(live(pid));
  parent.kill();
  EXPECT_EQ(::kill(grandchild, 0), 0) << "the child goes on";
  EXPECT_FALSE(live(pid));
  ::kill(grandchild, SIGKILL);
}

TEST_F(LifeTest, AnExecutedProgramDoesNotKeepItsParentsRecord) {
  auto first = join();  // the parent below opens what is there
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child parent([&] {
    auto owner = join();
    pid_t program = 0;
    std::string sleep = "sleep", seconds = "30";
    char* const arguments[] = {sleep.data(), seconds.data(), nullptr};
    if (posix_spawnp(&program, "sleep", nullptr, nullptr, arguments, environ) != 0) return 1;
    if (write(ends[1], &program, sizeof(program)) != sizeof(program)) return 2;
    return pause();
  });
  pid_t program = 0;
  close(ends[1]);  // the other end is the child alone
  ASSERT_EQ(read(ends[0], &program, sizeof(program)), static_cast<ssize_t>(sizeof(pid_t)));
  close(ends[0]);
  const pid_t pid = parent.pid();
  parent.kill();
  // The kernel lets the parent go on a moment before it closes the child's descriptors.
  EXPECT_TRUE(eventually([&] { return !live(pid); }));
  EXPECT_EQ(::kill(program, 0), 0);
  ::kill(program, SIGKILL);
}

TEST_F(LifeTest, NoDescriptorOutlivesAnExec) {
  Child child([&] {
    for (const bool first : {true, false}) {  // making the file, opening it
      if (first == (access(path().c_str(), F_OK) == 0)) return 1;
      auto owner = join();
      for (int file = 3; file < 64; ++file) {
        const int flags = fcntl(file, F_GETFD);
        struct stat found {};
        if (flags == -1 || fstat(file, &found) != 0 || !S_ISREG(found.st_mode)) continue;
        if (found.st_size == sizeof(Segment) && (flags & FD_CLOEXEC) == 0) return 2;
      }
    }
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(LifeTest, AnAbandonedChildCanJoinForItself) {
  auto owner = join();
  Child child([&] {
    owner->abandon_after_fork();
    owner.release();  // as in the shim: left where it is
    auto own = join();
    return own != nullptr && own->neighbours() == 1 ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(live(getpid()));
  EXPECT_TRUE(owner->tick().problems.empty());
}

TEST_F(LifeTest, AHostThatClosesAllDescriptorsIsBackAtTheNextTick) {
  auto witness = join();
  Child child([&] {
    auto owner = join();
    const std::size_t index = owner->index();
    const std::uint64_t claim = owner->claim();
    if (close_range(3, ~0u, 0) != 0) return 1;
    if (live(getpid())) return 2;  // the kernel has dropped the lock
    const Tick said = owner->tick();
    if (!live(getpid()) || said.news.size() != 1 || !said.problems.empty()) return 3;
    if (owner->index() != index || owner->claim() != claim) return 4;
    return owner->tick().news.empty() ? 0 : 5;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(LifeTest, OneWhoseRecordWasTakenMeanwhileLeavesItAloneAndTakesAnother) {
  auto witness = join();
  Child child([&] {
    Control initial;
    auto owner = join(initial);
    Figures figures;
    figures.resident = 41;
    owner->publish(figures, {});
    owner->post_need(42, NeedKind::kRestore);
    const std::uint64_t claim = owner->claim();
    close_range(3, ~0u, 0);
    auto successor = join();
    if (successor->index() != owner->index()) return 1;
    owner->publish({}, {});
    if (!snapshot().records.back().missing.empty()) return 2;
    owner->publish(figures, {});
    owner->tick();
    if (owner->index() == successor->index() || !successor->attached()) return 6;
    if (owner->claim() == claim || !live(getpid())) return 3;
    for (const RecordSnapshot& record : snapshot().records) {
      if (record.claim == owner->claim()) {
        return record.figures.resident == 41 && record.need.bytes == 42 ? 0 : 4;
      }
    }
    return 5;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(LifeTest, ADescriptorThatBecameTheHostsIsNeitherLockedNorClosed) {
  Child child([&] {
    auto owner = join();
    const std::string hosts = folder_ + "/hosts";
    for (int file = 3; file < 64; ++file) close(file);
    for (int file = 3; file < 64; ++file) {
      if (open(hosts.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600) != file) return 1;
    }
    owner->tick();
    owner.reset();
    struct stat its {};
    stat(hosts.c_str(), &its);
    for (int file = 3; file < 64; ++file) {
      struct stat found {};
      if (fstat(file, &found) != 0 || found.st_ino != its.st_ino) return 2;
    }
    const int other = open(hosts.c_str(), O_RDWR | O_CLOEXEC);
    if (locked_by_other(other, kLockBase, 1 << 20)) return 3;
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(LifeTest, ADescriptorThatBecameTheHostsDeclaresNobodyDead) {
  auto witness = join();
  Child child([&] {
    auto owner = join();
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // a sweep is due
    const std::string hosts = folder_ + "/hosts";
    for (int file = 3; file < 64; ++file) close(file);
    for (int file = 3; file < 64; ++file) {
      open(hosts.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    }
    return owner->tick().died.empty() ? 0 : 1;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(live(getpid()));
}

}  // namespace
}  // namespace kvshim::segment
