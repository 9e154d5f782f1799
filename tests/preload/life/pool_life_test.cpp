// Contents over time: what was written is there, whatever the shim did meanwhile.
// Names are exact export names (see preload/real_driver.h).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/preload/context_fixture.h"

namespace kvshim::preload {
namespace {

using namespace std::chrono_literals;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPool = 64 * kMiB;

class PoolLifeTest : public ContextTest {
 protected:
  static CUdeviceptr make_pool(std::size_t bytes = kPool) {
    CUdeviceptr pool = 0;
    EXPECT_EQ(cuMemAlloc_v2(&pool, bytes), CUDA_SUCCESS);
    unsigned long long id = 0;
    EXPECT_EQ(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pool), CUDA_SUCCESS);
    EXPECT_GE(id, 1ull << 48) << "no pool was made";
    return pool;
  }
};

/// A pool and a copy of what it must hold.
class Mirror {
 public:
  Mirror(CUdeviceptr pool, std::uint32_t seed)
      : pool_(pool), expected_(kPool, std::uint8_t{0}), random_(seed) {}

  /// One write of some form, somewhere.
  void write(CUstream stream) {
    const std::size_t at = random_() % (kPool - kMiB);
    const std::size_t bytes = 1 + random_() % (random_() % 4 == 0 ? kMiB : 5000);
    const auto value = static_cast<std::uint8_t>(random_() % 5 == 0 ? 0 : random_());
    switch (random_() % 3) {
      case 0: {
        std::vector<std::uint8_t> host(bytes, value);
        ASSERT_EQ(cuMemcpyHtoDAsync_v2(pool_ + at, host.data(), bytes, stream), CUDA_SUCCESS);
        ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
        break;
      }
      case 1:
        ASSERT_EQ(cuMemsetD8Async(pool_ + at, value, bytes, stream), CUDA_SUCCESS);
        break;
      default: {
        const std::size_t from = random_() % (kPool - kMiB);
        if (from < at + bytes && at < from + bytes) return;
        ASSERT_EQ(cuMemcpyDtoDAsync_v2(pool_ + at, pool_ + from, bytes, stream), CUDA_SUCCESS);
        std::copy_n(expected_.begin() + static_cast<std::ptrdiff_t>(from), bytes,
                    expected_.begin() + static_cast<std::ptrdiff_t>(at));
        return;
      }
    }
    std::fill_n(expected_.begin() + static_cast<std::ptrdiff_t>(at), bytes, value);
  }
  void expect_same(CUstream stream) {
    std::vector<std::uint8_t> found(kPool);
    ASSERT_EQ(cuMemcpyDtoHAsync_v2(found.data(), pool_, kPool, stream), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream), CUDA_SUCCESS);
    if (found == expected_) return;
    const auto differs = std::mismatch(found.begin(), found.end(), expected_.begin()).first;
    const auto at = differs - found.begin();
    FAIL() << "byte " << at << ", granule " << (at >> 21);
  }

 private:
  CUdeviceptr pool_;
  std::vector<std::uint8_t> expected_;
  std::mt19937 random_;
};

TEST_F(PoolLifeTest, ContentsAreKeptOverManyReleases) {
  const CUdeviceptr pool = make_pool();
  Mirror mirror(pool, 1);
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 20; ++i) mirror.write(stream_);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    std::this_thread::sleep_for(150ms);
    mirror.expect_same(stream_);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, ThreadsWithStreamsOfTheirOwnLoseNothing) {
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
      CUstream stream = nullptr;
      ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
      std::mt19937 random(40 + t);
      for (std::uint32_t life = 0; life < 2; ++life) {
        const CUdeviceptr pool = make_pool();
        Mirror mirror(pool, 10 * t + life);
        for (int round = 0; round < 12; ++round) {
          for (int i = 0; i < 6; ++i) mirror.write(stream);
          std::this_thread::sleep_for(std::chrono::milliseconds(random() % 90));
          if (round % 4 == 3) mirror.expect_same(stream);
          if (HasFatalFailure()) return;
        }
        EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
      }
      EXPECT_EQ(cuStreamDestroy_v2(stream), CUDA_SUCCESS);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Streams that are made, waited for and destroyed, and default streams of
// threads that end, while others submit: each has a part of one pool.
TEST_F(PoolLifeTest, StreamsComeAndGoBesideEachOther) {
  const CUdeviceptr pool = make_pool();
  constexpr std::size_t kPart = 8 * kMiB;
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, pool, t] {
      const CUdeviceptr part = pool + t * kPart;
      for (int life = 0; life < 12; ++life) {
        const auto value = static_cast<std::uint8_t>(16 * t + life + 1);
        std::thread([&] {
          ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
          CUstream stream = nullptr;
          CUevent event = nullptr;
          ASSERT_EQ(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
          ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
          ASSERT_EQ(cuMemsetD8Async(part, value, kMiB, stream), CUDA_SUCCESS);
          ASSERT_EQ(cuLaunchHostFunc(
                        stream, [](void*) {}, nullptr),
                    CUDA_SUCCESS);
          ASSERT_EQ(cuEventRecord(event, stream), CUDA_SUCCESS);
          ASSERT_EQ(cuStreamWaitEvent(CU_STREAM_PER_THREAD, event, 0), CUDA_SUCCESS);
          ASSERT_EQ(cuMemcpyDtoDAsync_v2_ptsz(part + 2 * kMiB, part, kMiB, nullptr), CUDA_SUCCESS);
          ASSERT_EQ(cuMemsetD8Async(part + 4 * kMiB, value, kMiB, stream), CUDA_SUCCESS);
          EXPECT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
          EXPECT_EQ(cuStreamDestroy_v2(stream), CUDA_SUCCESS);  // with work of its own
          ASSERT_EQ(cuStreamSynchronize(CU_STREAM_PER_THREAD), CUDA_SUCCESS);
        }).join();
        if (HasFatalFailure()) return;
        ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
        std::vector<std::uint8_t> found(kMiB);
        ASSERT_EQ(cuMemcpyDtoH_v2(found.data(), part + 2 * kMiB, kMiB), CUDA_SUCCESS);
        ASSERT_EQ(found, std::vector<std::uint8_t>(kMiB, value)) << t << ", " << life;
        if (life % 4 == 3) std::this_thread::sleep_for(80ms);  // idle together now and then
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, TwoStreamsOnOnePoolLoseNothing) {
  const CUdeviceptr pool = make_pool();
  CUstream other = nullptr;
  ASSERT_EQ(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  Mirror mirror(pool, 3);
  CUevent event = nullptr;
  ASSERT_EQ(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), CUDA_SUCCESS);
  CUstream now = stream_, next = other;
  for (int round = 0; round < 60; ++round) {
    mirror.write(now);
    if (HasFatalFailure()) return;
    ASSERT_EQ(cuEventRecord(event, now), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamWaitEvent(next, event, 0), CUDA_SUCCESS);
    std::swap(now, next);
    if (round % 15 == 14) {
      ASSERT_EQ(cuStreamSynchronize(next), CUDA_SUCCESS);
      std::this_thread::sleep_for(120ms);
    }
  }
  mirror.expect_same(now);
  EXPECT_EQ(cuEventDestroy_v2(event), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamDestroy_v2(other), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, FreeMemoryIsWhatItWouldBeWithoutTheShim) {
  std::size_t before = 0, with_pool = 0, after = 0, total = 0;
  const CUdeviceptr first = make_pool();  // what the mechanism needs for itself is there now
  ASSERT_EQ(cuMemGetInfo_v2(&before, &total), CUDA_SUCCESS);
  const CUdeviceptr pool = make_pool();
  ASSERT_EQ(cuMemGetInfo_v2(&with_pool, &total), CUDA_SUCCESS);
  EXPECT_EQ(before - with_pool, kPool);
  ASSERT_EQ(cuMemsetD8_v2(pool, 7, kPool), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  for (int i = 0; i < 30; ++i) {
    std::size_t now = 0;
    ASSERT_EQ(cuMemGetInfo_v2(&now, &total), CUDA_SUCCESS);
    EXPECT_EQ(now, with_pool);
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  ASSERT_EQ(cuMemGetInfo_v2(&after, &total), CUDA_SUCCESS);
  EXPECT_EQ(after, before);
  EXPECT_EQ(cuMemFree_v2(first), CUDA_SUCCESS);
}

// Its last guard has ended: it sets no bits there any more.
TEST_F(PoolLifeTest, APoolFreedAfterAFaultLeavesItsAddressToTheNext) {
  const CUdeviceptr pool = make_pool();
  ASSERT_EQ(cuMemsetD8Async(pool, 1, kMiB, stream_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  const CUdeviceptr next = make_pool();
  EXPECT_EQ(next, pool);
  std::uint8_t byte = 1;
  EXPECT_EQ(cuMemcpyDtoH_v2(&byte, next, 1), CUDA_SUCCESS);
  EXPECT_EQ(byte, 0);
  EXPECT_EQ(cuMemFree_v2(next), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, AStreamOrderedFreeMakesRoomForTheNextAllocation) {
  constexpr std::size_t kMost = 700 * kMiB;  // of 1 GiB
  CUdeviceptr pool = 0;
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(cuMemAllocAsync(&pool, kMost, stream_), CUDA_SUCCESS) << i;
    ASSERT_EQ(cuMemsetD8Async(pool, 9, 3 * kMiB, stream_), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(pool, stream_), CUDA_SUCCESS);
  }
  ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, ItsThreadsTakeNoSignalsOfTheHost) {
  const CUdeviceptr pool = make_pool();
  std::vector<std::string> ours;
  const auto end = std::chrono::steady_clock::now() + 20s;
  // Faults, watchdog, release, status; each gets its name when it runs first.
  while (ours.size() < 4 && std::chrono::steady_clock::now() < end) {
    ours.clear();
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream file(task.path() / "status");
      std::string name, word, blocked;
      file >> word >> name;
      while (file >> word && word != "SigBlk:") continue;
      file >> blocked;
      if (name.rfind("kvshim-", 0) != 0 || name == "kvshim-log") continue;
      ours.push_back(name);
      EXPECT_NE(std::stoull(blocked, nullptr, 16) >> (SIGTERM - 1) & 1u, 0u) << name;
    }
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_GE(ours.size(), 4u);
  EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
}

TEST_F(PoolLifeTest, FreeingAndAllocatingBesideReleasesIsSafe) {
  std::mt19937 random(8);
  for (int i = 0; i < 25; ++i) {
    const CUdeviceptr pool = make_pool();
    ASSERT_EQ(cuMemsetD8Async(pool + random() % kPool / 2, 5, kPool / 2 - 1, stream_),
              CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(stream_), CUDA_SUCCESS);
    std::this_thread::sleep_for(std::chrono::milliseconds(35 + random() % 50));
    EXPECT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  }
}

}  // namespace
}  // namespace kvshim::preload
