#include "segment/segment_file.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <fstream>

#include "segment/file_lock.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"
#include "tests/segment/mapped_file.h"

namespace kvshim::segment {
namespace {

const std::string kOther = "version " + std::to_string(kLayoutVersion + 1);

class SegmentFileTest : public SegmentTest {
 protected:
  std::string aside() const { return path() + ".bad"; }
  bool exists(const std::string& name) const { return access(name.c_str(), F_OK) == 0; }
  void make_valid_one() { join().reset(); }
  void overwrite_header_word(std::size_t i, std::uint64_t value) {
    MappedFile file(path());
    file.word(i).store(value);
  }
  /// A new one took the place of what was there, and it was said why.
  void expect_set_aside(const std::string& reason) {
    said_ = {};
    auto owner = join();
    ASSERT_NE(owner, nullptr);
    EXPECT_TRUE(owner->tick().problems.empty());
    ASSERT_EQ(said_.problems.size(), 1u);
    EXPECT_NE(said_.problems[0].find("set aside"), std::string::npos);
    EXPECT_NE(said_.problems[0].find(reason), std::string::npos) << said_.problems[0];
    EXPECT_TRUE(exists(aside()));
    EXPECT_EQ(snapshot().records.size(), 1u);
  }
};

TEST_F(SegmentFileTest, AValidOneIsUsedAgain) {
  make_valid_one();
  struct stat first {
  }, second{};
  stat(path().c_str(), &first);
  auto owner = join();
  stat(path().c_str(), &second);
  EXPECT_EQ(first.st_ino, second.st_ino);
  EXPECT_TRUE(said_.problems.empty());
}

TEST_F(SegmentFileTest, AnEmptyOneIsCompleted) {
  close(open(path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));  // its maker was killed
  auto owner = join();
  EXPECT_TRUE(said_.problems.empty());
  EXPECT_EQ(snapshot().records.size(), 1u);
}

TEST_F(SegmentFileTest, OneWhoseMakerWasKilledBeforeTheLastStoreIsSetAside) {
  make_valid_one();
  overwrite_header_word(0, 0);
  expect_set_aside("doesn't begin");
}

TEST_F(SegmentFileTest, RubbishIsSetAside) {
  std::ofstream(path()) << std::string(300000, 'x');
  chmod(path().c_str(), 0600);
  expect_set_aside("doesn't begin");
}

TEST_F(SegmentFileTest, ShortRubbishIsSetAside) {
  std::ofstream(path()) << "x";
  chmod(path().c_str(), 0600);
  expect_set_aside("too short");
}

TEST_F(SegmentFileTest, EveryWordOfTheHeaderIsChecked) {
  // 2: layout version and number of records are in one word, see below.
  for (std::size_t i = 1; i < 2 + sizeof(HeaderContents) / 8; ++i) {
    make_valid_one();
    overwrite_header_word(i, 0x4000000040000000);
    said_ = {};
    auto owner = join();
    ASSERT_NE(owner, nullptr);
    EXPECT_EQ(said_.problems.size(), 1u) << "word " << i;
    unlink(path().c_str());
  }
}

TEST_F(SegmentFileTest, HostileLengthsWithARightChecksumAreSetAside) {
  for (const bool bytes : {false, true}) {
    make_valid_one();
    {
      MappedFile file(path());
      HeaderContents contents = read_header(*file.operator->());
      if (bytes) {
        contents.record_bytes = 0xffffffff;
      } else {
        contents.records = 0x7fffffff;
      }
      const auto words = std::bit_cast<PlainWords<HeaderContents>>(contents);
      for (std::size_t i = 0; i < words.size(); ++i) file->header.contents[i].store(words[i]);
      file->header.checksum.store(checksum(words.data(), words.size(), kMagic));
    }
    EXPECT_NE(read_all(folder_)[0].error.find("corrupt"), std::string::npos);
    expect_set_aside("corrupt");
    unlink(path().c_str());
  }
}

TEST_F(SegmentFileTest, OneOfAnotherGpuIsSetAside) {
  const std::string other = "GPU-ffffffff-4455-6677-8899-aabbccddeeff";
  std::string why;
  Owner::attach(folder_, other, own_identity(), {}, &said_, &why).reset();
  rename((folder_ + "/" + file_name(geteuid(), other)).c_str(), path().c_str());
  expect_set_aside("corrupt");
}

TEST_F(SegmentFileTest, AnotherVersionThatNobodyUsesIsSetAside) {
  make_valid_one();
  overwrite_header_word(2, 0x0000004000000000u + kLayoutVersion + 1);
  EXPECT_TRUE(read_all(folder_).empty()) << "a tool has no problem with it";
  expect_set_aside(kOther);
}

TEST_F(SegmentFileTest, AnotherVersionThatSomebodyUsesIsLeftAlone) {
  make_valid_one();
  overwrite_header_word(2, 0x0000004000000000u + kLayoutVersion + 1);
  const int user = open(path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(try_lock(user, record_lock(100)));  // a record that our version doesn't have
  EXPECT_NE(refusal().find("another version"), std::string::npos);
  EXPECT_FALSE(exists(aside()));
  EXPECT_NE(snapshot().error.find(kOther), std::string::npos);
  close(user);
  expect_set_aside(kOther);
}

TEST_F(SegmentFileTest, ATruncatedOneIsSetAsideAndReportedToTools) {
  make_valid_one();
  ASSERT_EQ(truncate(path().c_str(), 8192), 0);
  EXPECT_NE(read_all(folder_)[0].error.find("8192 bytes"), std::string::npos);
  expect_set_aside("8192 bytes");
}

TEST_F(SegmentFileTest, OneThatOthersMayOpenIsSetAside) {
  make_valid_one();
  chmod(path().c_str(), 0666);
  EXPECT_NE(read_all(folder_)[0].error.find("0600"), std::string::npos);
  expect_set_aside("0600");
}

TEST_F(SegmentFileTest, OneWithASecondNameIsSetAside) {
  make_valid_one();
  ASSERT_EQ(link(path().c_str(), (folder_ + "/second").c_str()), 0);
  expect_set_aside("other names");
}

TEST_F(SegmentFileTest, OneOfAnotherUserIsRefusedAndLeftThere) {
  make_valid_one();
  if (chown(path().c_str(), geteuid() + 1, getegid()) != 0) GTEST_SKIP() << "needs root";
  EXPECT_NE(refusal().find("not a file of this user"), std::string::npos);
  EXPECT_FALSE(exists(aside()));
  EXPECT_NE(read_all(folder_)[0].error.find("belongs to user"), std::string::npos);
}

TEST_F(SegmentFileTest, ALinkIsNotFollowed) {
  const std::string target = folder_ + "/precious";
  std::ofstream(target) << "precious";
  ASSERT_EQ(symlink(target.c_str(), path().c_str()), 0);
  EXPECT_NE(refusal().find("symbolic link"), std::string::npos);
  EXPECT_NE(read_all(folder_)[0].error.find("symbolic link"), std::string::npos);
  std::string kept;
  std::ifstream(target) >> kept;
  EXPECT_EQ(kept, "precious");
}

TEST_F(SegmentFileTest, NeitherAFifoNorAFolderHoldsAnybodyUp) {
  ASSERT_EQ(mkfifo(path().c_str(), 0600), 0);
  EXPECT_NE(refusal(), "");
  EXPECT_NE(read_all(folder_)[0].error, "");
  unlink(path().c_str());
  ASSERT_EQ(mkdir(path().c_str(), 0700), 0);
  EXPECT_NE(refusal(), "");
  EXPECT_NE(read_all(folder_)[0].error, "");
}

TEST_F(SegmentFileTest, AMissingFolderIsAReasonAndNotMade) {
  folder_ += "/missing";
  EXPECT_NE(refusal().find("can't be opened"), std::string::npos);
  std::string error;
  EXPECT_TRUE(read_all(folder_, geteuid(), &error).empty());
  EXPECT_NE(error.find("can't be read"), std::string::npos);
}

TEST_F(SegmentFileTest, AMakerThatDoesNotGoOnIsReportedNotWaitedFor) {
  make_valid_one();
  const int file = open(path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(try_lock(file, kMakerLock));
  EXPECT_NE(refusal().find("doesn't go on"), std::string::npos);
  close(file);
  EXPECT_EQ(refusal(), "");
}

TEST_F(SegmentFileTest, OneThatIsReplacedWhileSomebodyWaitsForItIsNotJoined) {
  make_valid_one();
  const int old = open(path().c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(try_lock(old, kMakerLock));
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child child([&] {
    if (write(ends[1], "x", 1) != 1) return 1;
    auto owner = join();
    return owner != nullptr && owner->neighbours() == 1 ? 0 : 2;
  });
  char byte = 0;
  ASSERT_EQ(read(ends[0], &byte, 1), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // it waits by now, as a rule
  unlink(path().c_str());
  auto owner = join();
  unlock(old, kMakerLock);
  EXPECT_EQ(child.wait(), 0);
  close(old);
  close(ends[0]);
  close(ends[1]);
}

TEST_F(SegmentFileTest, ALimitOnFileSizesIsAReasonAndKillsNobody) {
  Child child([&] {
    const rlimit limit{65536, 65536};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
    return refusal().find("ulimit -f") != std::string::npos && !exists(path()) ? 0 : 2;
  });
  EXPECT_EQ(child.wait(), 0);
}

// In a mount namespace of its own: a file system of `size`, or a read-only one.
class SmallFileSystemTest : public SegmentFileTest {
 protected:
  static constexpr int kNoPermission = 77;
  int in_file_system(const char* data, unsigned long flags, const std::string& expected) {
    return Child([&] {
             if (unshare(CLONE_NEWNS) != 0 ||
                 mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                 mount("tmpfs", folder_.c_str(), "tmpfs", flags, data) != 0) {
               return kNoPermission;
             }
             const std::string why = refusal();
             return why.find(expected) != std::string::npos && !exists(path()) ? 0 : 1;
           })
        .wait();
  }
};

TEST_F(SmallFileSystemTest, AFullOneIsAReasonAndNothingIsLeftThere) {
  const int result = in_file_system("size=131072", 0, "No space left");
  if (result == kNoPermission) GTEST_SKIP() << "needs root";
  EXPECT_EQ(result, 0);
}

TEST_F(SmallFileSystemTest, AReadOnlyOneIsAReason) {
  const int result = in_file_system("", MS_RDONLY, "Read-only");
  if (result == kNoPermission) GTEST_SKIP() << "needs root";
  EXPECT_EQ(result, 0);
}

}  // namespace
}  // namespace kvshim::segment
