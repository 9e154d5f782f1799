// The three ways to an entry point, under a real LD_PRELOAD with recording hooks
// and a fake libcuda.so.1 (see CMakeLists.txt).
#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

extern "C" {
int next_layered_function(void);
void* next_function(const char* name);
}

namespace {

using DlsymFunction = void* (*)(void*, const char*);

/// The C library's dlsym, around the shim's.
DlsymFunction libc_dlsym() {
  for (const char* version : {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17"}) {
    if (void* found = dlvsym(RTLD_NEXT, "dlsym", version)) {
      return reinterpret_cast<DlsymFunction>(found);
    }
  }
  return nullptr;
}

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string object_of(const void* address) {
  Dl_info info = {};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

struct Row {
  const char* name;
  const char* role;
};
constexpr Row kRows[] = {
#define KVSHIM_ENTRY_POINT(name, role, area, note) {#name, #role},
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT
};

bool in_table(const std::string& name) {
  for (const Row& row : kRows) {
    if (name == row.name) return true;
  }
  return false;
}

struct Lookup {
  std::string symbol;
  int version = 0;
  cuuint64_t flags = 0;
  std::string exported;
};

std::vector<Lookup> lookups() {
  std::vector<Lookup> found;
  std::ifstream file(setting("KVSHIM_TEST_LOOKUPS"));
  for (std::string line; std::getline(file, line);) {
    Lookup lookup;
    const std::size_t space = line.find(' ');
    lookup.symbol = line.substr(0, space);
    std::istringstream rest(line.substr(space));
    rest >> lookup.version >> lookup.flags >> lookup.exported;
    found.push_back(lookup);
  }
  return found;
}

class WaysIn : public testing::Test {
 protected:
  void SetUp() override {
    if (setting("KVSHIM_TEST_SHIM").empty()) GTEST_SKIP() << "run by ctest, with LD_PRELOAD";
    driver_ = dlopen(setting("KVSHIM_TEST_DRIVER").c_str(), RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(driver_, nullptr) << dlerror();
    last_call_ = static_cast<const char**>(real("fake_last_call"));
    result_ = static_cast<CUresult*>(real("fake_result"));
    last_hook_ = static_cast<const char**>(dlsym(RTLD_DEFAULT, "kvshim_last_hook"));
    set_active_ = reinterpret_cast<void (*)(bool)>(dlsym(RTLD_DEFAULT, "kvshim_test_set_active"));
    ASSERT_NE(set_active_, nullptr);
    // An active shim has found the driver: its cuInit went through it.
    ASSERT_NE(through_dlsym("cuInit"), nullptr);
    set_active_(false);
    *last_call_ = "";
    *last_hook_ = "";
    *result_ = CUDA_SUCCESS;
  }

  void* real(const std::string& name) const { return libc_dlsym()(driver_, name.c_str()); }
  void* through_dlsym(const std::string& name) const { return dlsym(driver_, name.c_str()); }
  static void* exported(const std::string& name) { return dlsym(RTLD_DEFAULT, name.c_str()); }

  /// What cuGetProcAddress_v2, itself found by dlsym, says.
  void* through_get_proc_address(const Lookup& lookup) const {
    using Function =
        CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);
    const auto function = reinterpret_cast<Function>(through_dlsym("cuGetProcAddress_v2"));
    void* found = nullptr;
    CUdriverProcAddressQueryResult status = {};
    EXPECT_EQ(function(lookup.symbol.c_str(), &found, lookup.version, lookup.flags, &status),
              CUDA_SUCCESS);
    return found;
  }

  void* driver_ = nullptr;
  const char** last_call_ = nullptr;
  const char** last_hook_ = nullptr;
  CUresult* result_ = nullptr;
  void (*set_active_)(bool) = nullptr;
};

TEST_F(WaysIn, TheShimUnderTestIsTheOneLoaded) {
  EXPECT_EQ(object_of(reinterpret_cast<void*>(&dlsym)), setting("KVSHIM_TEST_SHIM"));
  EXPECT_EQ(object_of(exported("cuInit")), setting("KVSHIM_TEST_SHIM"));
}

TEST_F(WaysIn, TheFakeDriverResolvesToItsOwnFunctions) {
  using Function = CUresult (*)(const char*, void**, int, cuuint64_t);
  void* found = nullptr;
  ASSERT_EQ(reinterpret_cast<Function>(real("cuGetProcAddress"))("cuMemAlloc", &found, 3020, 0),
            CUDA_SUCCESS);
  EXPECT_EQ(found, real("cuMemAlloc_v2")) << "else the tests below would prove nothing";
}

TEST_F(WaysIn, AllLookUpsOfLibcudart13ReachTheHookOrTheDriver) {
  const std::vector<Lookup> all = lookups();
  ASSERT_EQ(all.size(), 440u);
  std::size_t hooked = 0;
  for (const Lookup& lookup : all) {
    void* found = through_get_proc_address(lookup);
    if (lookup.exported == "NULL" || real(lookup.exported) == nullptr) {
      EXPECT_EQ(found, nullptr) << lookup.symbol;
    } else if (in_table(lookup.exported)) {
      EXPECT_EQ(found, exported(lookup.exported)) << lookup.symbol << ' ' << lookup.version;
      EXPECT_EQ(object_of(found), setting("KVSHIM_TEST_SHIM")) << lookup.symbol;
      ++hooked;
    } else {
      EXPECT_EQ(found, real(lookup.exported)) << lookup.symbol << ' ' << lookup.version;
    }
  }
  EXPECT_GT(hooked, 140u);
}

TEST_F(WaysIn, AllThreeGiveTheSameHook) {
  std::map<std::string, Lookup> by_export;
  for (const Lookup& lookup : lookups()) by_export[lookup.exported] = lookup;
  for (const Row& row : kRows) {
    void* symbol = exported(row.name);
    EXPECT_EQ(object_of(symbol), setting("KVSHIM_TEST_SHIM")) << row.name;
    if (real(row.name) == nullptr) {
      EXPECT_EQ(through_dlsym(row.name), nullptr) << row.name;
      continue;
    }
    EXPECT_EQ(through_dlsym(row.name), symbol) << row.name;
    if (const auto lookup = by_export.find(row.name); lookup != by_export.end()) {
      EXPECT_EQ(through_get_proc_address(lookup->second), symbol) << row.name;
    }
  }
}

TEST_F(WaysIn, TheResolversResolveThemselves) {
  for (const char* name : {"cuGetProcAddress", "cuGetProcAddress_v2"}) {
    EXPECT_EQ(through_dlsym(name), exported(name));
  }
}

TEST_F(WaysIn, OldResolverSwapsToo) {
  using Function = CUresult (*)(const char*, void**, int, cuuint64_t);
  const auto function = reinterpret_cast<Function>(through_dlsym("cuGetProcAddress"));
  void* found = nullptr;
  ASSERT_EQ(function("cuMemAlloc", &found, 3020, 0), CUDA_SUCCESS);
  EXPECT_EQ(found, exported("cuMemAlloc_v2"));
  found = this;
  EXPECT_EQ(function("cuNoSuchFunction", &found, 3020, 0), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(found, nullptr);
}

TEST_F(WaysIn, ExportTablesComeFromTheDriverUntouched) {
  EXPECT_EQ(through_dlsym("cuGetExportTable"), real("cuGetExportTable"));
  EXPECT_EQ(object_of(through_dlsym("cuGetExportTable")), setting("KVSHIM_TEST_DRIVER"));
}

TEST_F(WaysIn, FirstGenerationStaysTheDrivers) {
  for (const char* name : {"cuMemAlloc", "cuMemcpyHtoD", "cuMemsetD8", "cuMemFree"}) {
    EXPECT_EQ(through_dlsym(name), real(name)) << name;
  }
}

TEST_F(WaysIn, EveryWrapperForwardsUntouchedWhileInactive) {
  for (const Row& row : kRows) {
    if (real(row.name) == nullptr || std::strcmp(row.role, "kResolve") == 0) continue;
    *last_call_ = "";
    // All parameters are integers or pointers in registers or on the stack; the
    // fakes read none of them.
    reinterpret_cast<CUresult (*)(...)>(exported(row.name))(nullptr);
    EXPECT_STREQ(*last_call_, row.name);
    EXPECT_STREQ(*last_hook_, "") << row.name;
    set_active_(false);  // cuInit woke it up
  }
}

TEST_F(WaysIn, EveryWrapperCallsItsHookWhenActive) {
  for (const Row& row : kRows) {
    if (real(row.name) == nullptr || std::strcmp(row.role, "kResolve") == 0) continue;
    if (std::strcmp(row.name, "cuInit") == 0) continue;
    set_active_(true);
    *last_call_ = *last_hook_ = "";
    reinterpret_cast<CUresult (*)(...)>(exported(row.name))(nullptr);
    EXPECT_STREQ(*last_hook_, row.name);
    EXPECT_STREQ(*last_call_, row.name);
  }
}

TEST_F(WaysIn, SleepsUntilCuInitSucceeds) {
  const auto init = reinterpret_cast<CUresult (*)(unsigned int)>(through_dlsym("cuInit"));
  const auto free_memory =
      reinterpret_cast<CUresult (*)(CUdeviceptr)>(through_dlsym("cuMemFree_v2"));
  *result_ = CUDA_ERROR_NO_DEVICE;
  EXPECT_EQ(init(0), CUDA_ERROR_NO_DEVICE);
  EXPECT_EQ(free_memory(0), CUDA_ERROR_NO_DEVICE);
  EXPECT_STREQ(*last_hook_, "");
  *result_ = CUDA_SUCCESS;
  EXPECT_EQ(init(0), CUDA_SUCCESS);
  EXPECT_EQ(free_memory(0), CUDA_SUCCESS);
  EXPECT_STREQ(*last_hook_, "cuMemFree_v2");
}

TEST_F(WaysIn, WhatTheDriverLacksIsAnErrorAndNotACrash) {
  ASSERT_EQ(real("cuMemDiscardBatchAsync"), nullptr);
  const auto function =
      reinterpret_cast<CUresult (*)(CUdeviceptr*, size_t*, size_t, unsigned long long, CUstream)>(
          exported("cuMemDiscardBatchAsync"));
  for (const bool active : {false, true}) {
    set_active_(active);
    EXPECT_EQ(function(nullptr, nullptr, 0, 0, nullptr), CUDA_ERROR_NOT_SUPPORTED);
  }
}

TEST_F(WaysIn, SuccessLeavesNoErrorMessageBehind) {
  // The fake driver lacks functions of the table, so filling it had failures.
  (void)dlerror();
  ASSERT_NE(through_dlsym("cuMemAlloc_v2"), nullptr);
  EXPECT_EQ(dlerror(), nullptr);
}

TEST_F(WaysIn, FailureKeepsItsErrorMessage) {
  for (const char* name : {"cuMemDiscardBatchAsync", "cuNoSuchFunction", "no_such_function"}) {
    (void)dlerror();
    EXPECT_EQ(through_dlsym(name), nullptr);
    const char* message = dlerror();
    ASSERT_NE(message, nullptr) << name;
    EXPECT_NE(std::strstr(message, name), nullptr) << message;
  }
}

TEST_F(WaysIn, OnlyTheRealDriversFunctionsAreSwapped) {
  void* stranger = dlopen(setting("KVSHIM_TEST_LAYER").c_str(), RTLD_NOW);
  ASSERT_NE(stranger, nullptr) << dlerror();
  for (const char* name : {"cuMemAlloc_v2", "cudnnCreate", "cuMemAlloc_v2_of_a_stranger"}) {
    void* found = dlsym(stranger, name);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(object_of(found), setting("KVSHIM_TEST_LAYER")) << name;
  }
}

TEST_F(WaysIn, NextIsSeenFromTheCaller) {
  EXPECT_EQ(next_layered_function(), 2);
  // From a library behind the shim the next cuInit is not the shim's (the next
  // cuMemAlloc_v2 is the stranger's).
  EXPECT_EQ(object_of(next_function("cuMemAlloc_v2")), setting("KVSHIM_TEST_LAYER"));
  EXPECT_EQ(object_of(next_function("dlsym")), object_of(reinterpret_cast<void*>(libc_dlsym())));
}

TEST_F(WaysIn, AGenerationBeyondTheTableIsSaidOnceWhenThereIsALog) {
  const auto log = reinterpret_cast<const char* (*)()>(dlsym(RTLD_DEFAULT, "kvshim_test_log"));
  ASSERT_NE(log, nullptr);
  // Some are passed through on purpose, and hooks are hooks.
  EXPECT_EQ(through_get_proc_address({"cuMemHostAlloc", 2020, 0, ""}), real("cuMemHostAlloc"));
  EXPECT_EQ(through_get_proc_address({"cuMemAlloc", 3020, 0, ""}), exported("cuMemAlloc_v2"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(through_get_proc_address({"cuMemAllocAsync", 99000, 0, ""}),
              real("cuMemAllocAsync_v7"));
  }
  EXPECT_STREQ(log(), "");
  reinterpret_cast<CUresult (*)(unsigned int)>(exported("cuInit"))(0);
  const std::string said = log();
  EXPECT_NE(said.find("has a newer cuMemAllocAsync"), std::string::npos) << said;
  EXPECT_EQ(said.find("has a newer"), said.rfind("has a newer")) << said;
  reinterpret_cast<CUresult (*)(unsigned int)>(exported("cuInit"))(0);
  EXPECT_EQ(log(), said);
}

TEST_F(WaysIn, EmptyNameIsLeftToTheCLibrary) {
  (void)dlerror();
  EXPECT_EQ(through_dlsym(""), nullptr);
  EXPECT_NE(dlerror(), nullptr);
}

TEST_F(WaysIn, ThreadsThatComeTogetherGetTheSame) {
  std::atomic<int> waiting{0};
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::vector<std::set<void*>> found(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ++waiting;
      while (waiting < kThreads) std::this_thread::yield();
      for (const char* name : {"cuMemAlloc_v2", "cuLaunchKernel", "cuMemcpyAsync_ptsz"}) {
        found[static_cast<std::size_t>(i)].insert(through_dlsym(name));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& one : found) EXPECT_EQ(one, found.front());
  EXPECT_EQ(found.front().size(), 3u);
  EXPECT_TRUE(found.front().contains(exported("cuLaunchKernel")));
}

}  // namespace
