// NVML's memory queries from inside a process under the whole preload library, on the
// simulator and its NVML (tests/nvml), or on a GPU and its own. CUDA's figures are the measure: the
// private view is tested elsewhere.
#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "preload/nvml_library.h"
#include "tests/preload/context_fixture.h"
#include "tests/segment/child.h"
#include "tests/segment/folder.h"

namespace kvshim::preload {
namespace {

using segment::Child;
using segment::eventually;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPool = 64 * kMiB;
constexpr unsigned kVersion2 = sizeof(NvmlMemoryV2) | (2u << 24);

struct Seen {
  std::size_t free = 0, total = 0;
};

class NvmlViewTest : public segment::SegmentTest {
 protected:
  void SetUp() override {
    if (std::getenv("KVSHIM_TEST_NVML_USER") == nullptr) {
      GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    }
    SegmentTest::SetUp();
    setenv("KVSHIM_SEGMENT_DIR", folder_.c_str(), 1);
    setenv("KVSHIM_LOG_FILE", (folder_ + "/log").c_str(), 1);
    setenv("KVSHIM_SIM_GPU", (folder_ + "/gpu").c_str(), 1);
  }

  /// As pynvml does it.
  void load_nvml() {
    library_ = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    const auto init = reinterpret_cast<int (*)()>(dlsym(library_, "nvmlInit_v2"));
    ASSERT_EQ(init(), 0);
    get_handle_ = reinterpret_cast<int (*)(unsigned, void**)>(
        dlsym(library_, "nvmlDeviceGetHandleByIndex_v2"));
    get_ =
        reinterpret_cast<int (*)(void*, NvmlMemory*)>(dlsym(library_, "nvmlDeviceGetMemoryInfo"));
    get_v2_ = reinterpret_cast<int (*)(void*, NvmlMemoryV2*)>(
        dlsym(library_, "nvmlDeviceGetMemoryInfo_v2"));
    ASSERT_NE(get_, nullptr);
    ASSERT_NE(get_v2_, nullptr);
  }
  void* gpu(unsigned index = 0) const {
    void* handle = nullptr;
    EXPECT_EQ(get_handle_(index, &handle), 0);
    return handle;
  }
  NvmlMemory nvml(unsigned index = 0) const {
    NvmlMemory memory{};
    EXPECT_EQ(get_(gpu(index), &memory), 0);
    EXPECT_EQ(memory.free + memory.used, memory.total);
    return memory;
  }
  NvmlMemoryV2 nvml_v2() const {
    NvmlMemoryV2 memory{kVersion2, 0, 0, 0, 0};
    EXPECT_EQ(get_v2_(gpu(), &memory), 0);
    EXPECT_EQ(memory.free + memory.used + memory.reserved, memory.total);
    return memory;
  }
  /// What the library itself says, past the shim.
  NvmlMemory physical() const {
    const auto real_dlsym =
        reinterpret_cast<void* (*)(void*, const char*)>(dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34"));
    const auto get = reinterpret_cast<int (*)(void*, NvmlMemory*)>(
        real_dlsym(library_, "nvmlDeviceGetMemoryInfo"));
    NvmlMemory memory{};
    EXPECT_EQ(get(gpu(), &memory), 0);
    return memory;
  }

  NvmlMemoryV2 physical_v2() const {
    const auto real_dlsym =
        reinterpret_cast<void* (*)(void*, const char*)>(dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34"));
    const auto get = reinterpret_cast<int (*)(void*, NvmlMemoryV2*)>(
        real_dlsym(library_, "nvmlDeviceGetMemoryInfo_v2"));
    NvmlMemoryV2 memory{kVersion2, 0, 0, 0, 0};
    EXPECT_EQ(get(gpu(), &memory), 0);
    return memory;
  }

  static CUdeviceptr make_pool() {
    CUdeviceptr pool = 0;
    EXPECT_EQ(cuMemAlloc_v2(&pool, kPool), CUDA_SUCCESS);
    unsigned long long id = 0;
    EXPECT_EQ(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, pool), CUDA_SUCCESS);
    EXPECT_GE(id, 1ull << 48) << "no pool was made";
    return pool;
  }
  static void write(CUdeviceptr pool) {
    EXPECT_EQ(cuMemsetD8_v2(pool, 1, kPool), CUDA_SUCCESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  }
  static Seen cuda() {
    Seen seen;
    EXPECT_EQ(cuMemGetInfo_v2(&seen.free, &seen.total), CUDA_SUCCESS);
    return seen;
  }
  /// What the driver keeps for itself: 32 MiB in tests/nvml, 480 MiB on an H100.
  unsigned long long reserved() const { return physical_v2().reserved; }
  void expect_as_cuda(const char* when) const {
    const Seen seen = cuda();
    const unsigned long long kept = reserved();
    EXPECT_EQ(nvml().free, seen.free) << when;
    EXPECT_EQ(nvml().total, seen.total + kept) << when;
    EXPECT_EQ(nvml_v2().free, seen.free) << when;
    EXPECT_EQ(nvml_v2().total, seen.total + kept) << when;
    EXPECT_EQ(nvml_v2().reserved, kept) << when;
  }

  void* library_ = nullptr;
  int (*get_handle_)(unsigned, void**) = nullptr;
  int (*get_)(void*, NvmlMemory*) = nullptr;
  int (*get_v2_)(void*, NvmlMemoryV2*) = nullptr;
};

TEST_F(NvmlViewTest, SaysWhatCudaSaysHoweverMuchOfAPoolIsThere) {
  load_nvml();
  ASSERT_TRUE(use_cuda());
  expect_as_cuda("before the first pool");
  const unsigned long long before = nvml().free;
  const CUdeviceptr pool = make_pool();
  expect_as_cuda("absent");
  EXPECT_GT(physical().free, nvml().free) << "absent pages are free, and not for the engine";
  EXPECT_NEAR(static_cast<double>(before - nvml().free), kPool, 2 * kMiB);
  write(pool);
  expect_as_cuda("resident");
  const unsigned long long resident = physical().free;
  EXPECT_TRUE(eventually([&] { return physical().free >= resident + kPool / 2; },
                         std::chrono::milliseconds(20000)))
      << "released when idle";
  expect_as_cuda("parked");
  ASSERT_EQ(cuMemFree_v2(pool), CUDA_SUCCESS);
  expect_as_cuda("freed");
}

TEST_F(NvmlViewTest, SaysTheSameToProgramsThatAreLinkedToIt) {
  load_nvml();
  ASSERT_TRUE(use_cuda());
  write(make_pool());
  void* user = dlopen(std::getenv("KVSHIM_TEST_NVML_USER"), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(user, nullptr) << dlerror();
  const auto linked =
      reinterpret_cast<int (*)(void*, NvmlMemory*)>(dlsym(user, "linked_memory_info"));
  const auto linked_v2 =
      reinterpret_cast<int (*)(void*, NvmlMemoryV2*)>(dlsym(user, "linked_memory_info_v2"));
  NvmlMemory memory{};
  NvmlMemoryV2 newer{kVersion2, 0, 0, 0, 0};
  ASSERT_EQ(linked(gpu(), &memory), 0);
  ASSERT_EQ(linked_v2(gpu(), &newer), 0);
  const Seen seen = cuda();
  EXPECT_EQ(memory.free, seen.free);
  EXPECT_EQ(newer.free, seen.free);
}

TEST_F(NvmlViewTest, IsNvmlsOwnWordBeforeCudaIsInitialised) {
  // A neighbour's pool would count otherwise.
  Child neighbour([] {
    if (!use_cuda()) return 1;
    write(make_pool());
    return pause();
  });
  load_nvml();
  ASSERT_TRUE(eventually([&] { return physical().free < physical().total - reserved() - kPool; },
                         std::chrono::milliseconds(20000)));
  neighbour.kill();
  EXPECT_EQ(nvml().free, physical().free);
  EXPECT_EQ(nvml().total, physical().total);
}

TEST_F(NvmlViewTest, LeavesAGpuAloneThatCudaDoesNotSee) {
  if (std::getenv("KVSHIM_TESTS_ON_GPU") != nullptr) GTEST_SKIP() << "needs a second GPU";
  load_nvml();
  ASSERT_TRUE(use_cuda());
  write(make_pool());
  EXPECT_EQ(nvml(1).free, 7 * kMiB);
  EXPECT_EQ(nvml(1).total, 4096 * kMiB + reserved());
}

TEST_F(NvmlViewTest, LeavesThePhysicalViewAlone) {
  setenv("KVSHIM_MEMORY_VIEW", "physical", 1);
  load_nvml();
  ASSERT_TRUE(use_cuda());
  make_pool();
  EXPECT_EQ(nvml().free, physical().free);
  EXPECT_EQ(nvml().used, physical().used);
}

TEST_F(NvmlViewTest, ALimitIsTheTotal) {
  setenv("KVSHIM_LIMIT", "512MiB", 1);
  load_nvml();
  ASSERT_TRUE(use_cuda());
  CUdeviceptr plain = 0;
  ASSERT_EQ(cuMemAlloc_v2(&plain, 4 * kMiB), CUDA_SUCCESS);
  for (const char* when : {"before the first pool", "with a pool"}) {
    const Seen seen = cuda();
    EXPECT_EQ(seen.total, 512 * kMiB) << when;
    EXPECT_EQ(nvml().total, seen.total) << when;
    EXPECT_EQ(nvml().free, seen.free) << when;
    EXPECT_EQ(nvml_v2().total, seen.total) << when;
    EXPECT_EQ(nvml_v2().free, seen.free) << when;
    EXPECT_EQ(nvml_v2().reserved, 0u) << when;
    make_pool();
  }
}

TEST_F(NvmlViewTest, PoolsOfNeighboursAreFree) {
  setenv("KVSHIM_IDLE_TIMEOUT", "60s", 1);
  const Child neighbour([] {
    if (!use_cuda()) return 1;
    write(make_pool());
    return pause();
  });
  load_nvml();
  ASSERT_TRUE(use_cuda());
  EXPECT_TRUE(eventually([&] { return nvml().free >= physical().free + kPool; },
                         std::chrono::milliseconds(20000)));
  expect_as_cuda("beside a neighbour");
}

TEST_F(NvmlViewTest, IsNeverLoadedByKvshim) {
  ASSERT_TRUE(use_cuda());
  write(make_pool());
  const auto exported =
      reinterpret_cast<int (*)(void*, NvmlMemory*)>(dlsym(RTLD_DEFAULT, "nvmlDeviceGetMemoryInfo"));
  ASSERT_NE(exported, nullptr);
  NvmlMemory memory{1, 2, 3};
  EXPECT_EQ(exported(nullptr, &memory), kNvmlLibraryNotFound);
  EXPECT_EQ(memory.free, 2u);
  EXPECT_EQ(dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_NOLOAD), nullptr);
  load_nvml();
  expect_as_cuda("loaded later");
}

TEST_F(NvmlViewTest, HandsOnErrors) {
  library_ = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
  ASSERT_NE(library_, nullptr);
  ASSERT_TRUE(use_cuda());
  make_pool();
  const auto get =
      reinterpret_cast<int (*)(void*, NvmlMemory*)>(dlsym(library_, "nvmlDeviceGetMemoryInfo"));
  NvmlMemory memory{1, 2, 3};
  EXPECT_EQ(get(nullptr, &memory), 1) << "uninitialised";
  EXPECT_EQ(memory.free, 2u);
  load_nvml();
  NvmlMemoryV2 wrong{7, 1, 2, 3, 4};
  EXPECT_EQ(get_v2_(gpu(), &wrong), 13);
  EXPECT_EQ(wrong.free, 3u);
}

TEST_F(NvmlViewTest, WhatProcessesHoldIsLeftToNvml) {
#define KVSHIM_NVML_PASSED(name, reason) #name,
  for (std::string name : {
#include "preload/nvml_entry_points.def"
       }) {
    if (name.back() == '*') name.pop_back();
    for (const char* generation : {"", "_v2", "_v3", "V"}) {
      EXPECT_EQ(dlsym(RTLD_DEFAULT, (name + generation).c_str()), nullptr) << name;
    }
  }
}

}  // namespace
}  // namespace kvshim::preload
