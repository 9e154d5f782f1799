// The whole preload library as a member of the segment, on the simulator. Every
// engine is a process of its own; this one never initialises CUDA.
#include <cuda.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "tests/preload/context_fixture.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::segment {
namespace {

using std::chrono::milliseconds;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPool = 64 * kMiB;
const bool kOnGpu = std::getenv("KVSHIM_TESTS_ON_GPU") != nullptr;
/// For a context and modules; on a GPU other tests run beside this one.
const std::size_t kDriverTakes = kOnGpu ? std::size_t{16} << 30 : 64 * kMiB;

class MembershipTest : public SegmentTest {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_CONFIG") == nullptr) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    SegmentTest::SetUp();
    setenv("KVSHIM_SEGMENT_DIR", folder_.c_str(), 1);
    setenv("KVSHIM_LOG_FILE", (folder_ + "/log").c_str(), 1);
    unsetenv("KVSHIM_SEGMENT");
  }

  // The calls of an engine: a pool, written as a whole.
  static CUdeviceptr make_pool() {
    CUdeviceptr pool = 0;
    if (!preload::use_cuda() || cuMemAlloc_v2(&pool, kPool) != CUDA_SUCCESS) return 0;
    return write(pool) ? pool : 0;
  }
  static bool write(CUdeviceptr pool) {
    return cuMemsetD8_v2(pool, 1, kPool) == CUDA_SUCCESS && cuCtxSynchronize() == CUDA_SUCCESS;
  }
  static int engine() { return make_pool() != 0 ? pause() : 1; }

  std::vector<RecordSnapshot> records() const {
    const std::vector<GpuSnapshot> all = read_all(folder_);
    return all.empty() ? std::vector<RecordSnapshot>() : all[0].records;
  }
  /// Waits for a living record of the process that fulfils the condition.
  template <class Condition>
  bool shows(pid_t pid, Condition condition) const {
    return eventually(
        [&] {
          for (const RecordSnapshot& record : records()) {
            if (record.identity.pid == pid && record.live && condition(record)) return true;
          }
          return false;
        },
        milliseconds(20000));
  }
  bool shows(pid_t pid) const {
    return shows(pid, [](const RecordSnapshot&) { return true; });
  }
  std::string log() const {
    std::ostringstream text;
    text << std::ifstream(folder_ + "/log").rdbuf();
    return text.str();
  }
};

TEST_F(MembershipTest, AProcessShowsItsPoolAndWhatBecomesOfIt) {
  const Child child(engine);
  EXPECT_TRUE(shows(child.pid(), [](const RecordSnapshot& record) {
    return record.figures.pools == 1 && record.figures.pool_bytes == kPool &&
           record.figures.elastic == 1;
  }));
  EXPECT_TRUE(shows(child.pid(), [](const RecordSnapshot& record) {
    const Figures& f = record.figures;
    return f.parked == kPool && f.resident == 0 && f.releases > 0 && f.idle_ms >= 500 &&
           f.resident + f.parked + f.absent == f.pool_bytes && f.released_bytes == kPool &&
           f.faults > 0 && monotonic_ns() - f.updated_ns < 10'000'000'000u;
  })) << "released when idle";
  const GpuSnapshot gpu = snapshot();
  ASSERT_EQ(gpu.records.size(), 1u);
  const RecordSnapshot& record = gpu.records[0];
  EXPECT_TRUE(is_running_here(record.identity));
  EXPECT_EQ(record.identity.name.str(), "membership_test");
  if (kOnGpu) {
    EXPECT_GT(record.identity.gpu_total, std::uint64_t{1} << 30);
  } else {
    EXPECT_EQ(record.identity.gpu_total, std::uint64_t{1} << 30);
  }
  EXPECT_NE(record.identity.gpu_name.str(), "");
  EXPECT_EQ(record.settings.idle_timeout_ms, 100u);
  EXPECT_TRUE(shows(child.pid(), [](const RecordSnapshot& now) { return now.control_heard(); }));
}

TEST_F(MembershipTest, ShowsTheFreeMemoryOfTheGpuAsTheDriverHasIt) {
  const Child child([&] {
    if (make_pool() == 0) return 1;
    return pause();
  });
  // The pool is parked by then: zero pages remain, and what the driver itself needs.
  EXPECT_TRUE(shows(child.pid(), [](const RecordSnapshot& record) {
    const Figures& f = record.figures;
    return f.resident == 0 && f.gpu_free + f.device_cached <= record.identity.gpu_total &&
           f.gpu_free + f.device_cached + kDriverTakes > record.identity.gpu_total;
  }));
}

TEST_F(MembershipTest, CountsWhatTheEngineMapsItself) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Child child([&] {
    if (make_pool() == 0) return 1;
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr address = 0;
    if (cuMemCreate(&handle, 40 * kMiB, &properties, 0) != CUDA_SUCCESS ||
        cuMemAddressReserve(&address, 40 * kMiB, 0, 0, 0) != CUDA_SUCCESS ||
        cuMemMap(address, 40 * kMiB, 0, handle, 0) != CUDA_SUCCESS ||
        cuMemRelease(handle) != CUDA_SUCCESS) {
      return 2;
    }
    char go = 0;
    if (read(ends[0], &go, 1) != 1 || cuMemUnmap(address, 40 * kMiB) != CUDA_SUCCESS) return 3;
    return pause();
  });
  EXPECT_TRUE(shows(child.pid(), [](const RecordSnapshot& record) {
    return record.figures.other_bytes == 40 * kMiB;
  }));
  ASSERT_EQ(::write(ends[1], "g", 1), 1);
  EXPECT_TRUE(shows(child.pid(),
                    [](const RecordSnapshot& record) { return record.figures.other_bytes == 0; }));
}

TEST_F(MembershipTest, ALimitHoldsForWhatTheEngineMapsItself) {
  Child child([&] {
    setenv("KVSHIM_LIMIT", "200MiB", 1);
    if (make_pool() == 0) return 1;
    CUmemAllocationProp properties{};
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle first = 0, second = 0;
    if (cuMemCreate(&first, 120 * kMiB, &properties, 0) != CUDA_SUCCESS) return 2;
    if (cuMemCreate(&second, 120 * kMiB, &properties, 0) != CUDA_ERROR_OUT_OF_MEMORY) return 3;
    if (cuMemRelease(first) != CUDA_SUCCESS) return 4;
    return cuMemCreate(&second, 120 * kMiB, &properties, 0) == CUDA_SUCCESS ? 0 : 5;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(MembershipTest, TheFileIsNamedAfterTheGpuAsTheDriverNamesIt) {
  Child asks([&] {
    CUuuid uuid{};
    if (cuInit(0) != CUDA_SUCCESS || cuDeviceGetUuid_v2(&uuid, 0) != CUDA_SUCCESS) return 1;
    std::array<unsigned char, 16> bytes;
    std::memcpy(bytes.data(), uuid.bytes, 16);
    std::ofstream(folder_ + "/uuid") << uuid_text(bytes);
    return 0;
  });
  ASSERT_EQ(asks.wait(), 0);
  const Child child(engine);
  ASSERT_TRUE(shows(child.pid()));
  std::string uuid;
  std::ifstream(folder_ + "/uuid") >> uuid;
  EXPECT_EQ(snapshot().uuid, uuid);
}

TEST_F(MembershipTest, AProcessWithoutPoolsIsNoMember) {
  Child child([] {
    CUdeviceptr small = 0;
    if (!preload::use_cuda() || cuMemAlloc_v2(&small, 4096) != CUDA_SUCCESS) return 1;
    std::this_thread::sleep_for(milliseconds(400));
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(read_all(folder_).empty());
}

TEST_F(MembershipTest, SeveralShowUpInOneSegment) {
  const Child one(engine), two(engine);
  EXPECT_TRUE(shows(one.pid()));
  EXPECT_TRUE(shows(two.pid()));
  EXPECT_EQ(records().size(), 2u);
}

TEST_F(MembershipTest, AnOrderlyExitLeavesNothing) {
  Child child([&] {
    if (make_pool() == 0 || !shows(getpid())) return 1;
    std::exit(0);  // exit handlers, as an engine
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(records().empty());
}

TEST_F(MembershipTest, AKilledOneIsNoticedByTheOthers) {
  const Child witness(engine);
  Child victim(engine);
  ASSERT_TRUE(shows(witness.pid()));
  ASSERT_TRUE(shows(victim.pid()));
  victim.kill();
  EXPECT_TRUE(eventually([&] { return records().size() == 1; }, milliseconds(5000)));
  EXPECT_NE(log().find("has died; its record is free"), std::string::npos);
}

TEST_F(MembershipTest, AForkedChildThatLivesOnDoesNotKeepTheRecord) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  Child parent([&] {
    if (make_pool() == 0 || !shows(getpid())) return 1;
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      return pause();
    }
    return ::write(ends[1], &child, sizeof(child)) == sizeof(child) ? pause() : 2;
  });
  pid_t grandchild = 0;
  close(ends[1]);  // the other end is the child alone
  ASSERT_EQ(read(ends[0], &grandchild, sizeof(grandchild)), static_cast<ssize_t>(sizeof(pid_t)));
  close(ends[0]);
  parent.kill();
  ASSERT_EQ(::kill(grandchild, 0), 0);
  // The child may not have come to its fork handler yet.
  EXPECT_TRUE(eventually([&] {
    bool any = false;
    for (const RecordSnapshot& record : records()) any |= record.live;
    return !any;
  }));
  ::kill(grandchild, SIGKILL);
}

TEST_F(MembershipTest, TheOptionTurnsItOff) {
  Child child([&] {
    setenv("KVSHIM_SEGMENT", "false", 1);
    if (make_pool() == 0) return 1;
    std::this_thread::sleep_for(milliseconds(400));
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(read_all(folder_).empty());
}

TEST_F(MembershipTest, WithoutASegmentTheEngineRunsOnAndIsWarnedOnce) {
  Child child([&] {
    setenv("KVSHIM_SEGMENT_DIR", (folder_ + "/missing").c_str(), 1);
    const CUdeviceptr pool = make_pool();
    if (pool == 0) return 1;
    for (int i = 0; i < 5; ++i) {
      std::this_thread::sleep_for(milliseconds(150));
      if (!write(pool)) return 2;
    }
    std::exit(0);
  });
  EXPECT_EQ(child.wait(), 0);
  const std::string text = log();
  const std::size_t first = text.find("can't see this process");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_EQ(text.find("can't see this process", first + 1), std::string::npos);
}

TEST_F(MembershipTest, AFileThatIsRemovedIsMadeAgain) {
  const Child child(engine);
  ASSERT_TRUE(shows(child.pid()));
  unlink(snapshot().path.c_str());
  EXPECT_TRUE(shows(child.pid()));
}

TEST_F(MembershipTest, ATruncatedFileKillsNobodyThatLooksInTime) {
  const Child child(engine);
  ASSERT_TRUE(shows(child.pid(), [](const RecordSnapshot& r) { return r.figures.idle_ms > 0; }));
  ::kill(child.pid(), SIGSTOP);
  ASSERT_EQ(truncate(snapshot().path.c_str(), 4096), 0);
  ::kill(child.pid(), SIGCONT);
  EXPECT_TRUE(shows(child.pid()));
}

TEST_F(MembershipTest, WhatIsSetForAGroupHoldsForItsMembersOnly) {
  setenv("KVSHIM_GROUP", "tenant", 1);
  const Child member(engine);
  unsetenv("KVSHIM_GROUP");
  const Child stranger(engine);
  ASSERT_TRUE(shows(member.pid()) && shows(stranger.pid()));
  ControlChange change;
  change.limit = 100 * kMiB;
  change.reserve = 30 * kMiB;
  change.priority = 4;
  ASSERT_EQ(set_group_control(snapshot(), "tenant", change), "");
  EXPECT_TRUE(shows(member.pid(), [](const RecordSnapshot& record) {
    return record.settings.limit == 100 * kMiB && record.settings.reserve == 30 * kMiB &&
           record.settings.priority == 4;
  }));
  change = {};
  change.priority = 5;
  ASSERT_EQ(set_group_control(snapshot(), "tenant", change), "");
  EXPECT_TRUE(shows(member.pid(),
                    [](const RecordSnapshot& record) { return record.settings.priority == 5; }));
  EXPECT_TRUE(shows(stranger.pid(), [](const RecordSnapshot& record) {
    return record.settings.limit == 0 && record.settings.reserve == 0 && record.control_heard();
  }));
}

}  // namespace
}  // namespace kvshim::segment
