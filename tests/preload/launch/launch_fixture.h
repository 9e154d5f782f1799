// What the tests of launches and graphs start from: the fakes, the built-in
// profiles, one pool, and kernels of the engines with the parameters they have.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "heuristics/profiles.h"
#include "preload/function_info.h"
#include "preload/hooks.h"
#include "tests/preload/launch/fake_driver.h"
#include "tests/preload/launch/fake_gate.h"

namespace kvshim::preload::testing {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::uint64_t kPoolBase = kArenaBase + 64 * kMiB;
inline constexpr std::size_t kPoolBytes = 256 * kMiB;
inline constexpr std::uint64_t kElsewhere = 0x7f0000000000;

inline const std::string kVllmWriter =
    "_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_"
    "S5_PT0_S7_PKlllllliiiPKfSB_i";
inline const std::vector<std::size_t> kVllmWriterSizes = {8, 8, 8, 8, 8, 8, 8, 8,
                                                          8, 8, 4, 4, 4, 8, 8, 4};
inline const std::string kTorchFill =
    "_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_11FillFunctorIaEESt5arrayIPcLm1EEEEviT0_"
    "T1_";
/// scale(float* out, const float* in, int n), in no profile.
inline const std::string kUnknownKernel = "_Z5scalePfPKfi";

/// Arguments as a caller lays them out; each becomes one parameter.
class Arguments {
 public:
  template <class T>
  Arguments& add(const T& value) {
    std::vector<unsigned char> bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    values_.push_back(std::move(bytes));
    return *this;
  }
  Arguments& add_bytes(std::vector<unsigned char> bytes) {
    values_.push_back(std::move(bytes));
    return *this;
  }
  void** params() {
    pointers_.clear();
    for (auto& value : values_) pointers_.push_back(value.data());
    return pointers_.data();
  }
  /// The `extra` form of the same arguments, packed by the layout.
  void** extra(const std::vector<heuristics::ParamLayout>& layout) {
    buffer_.clear();
    for (std::size_t i = 0; i < values_.size(); ++i) {
      buffer_.resize(layout[i].offset + layout[i].size);
      std::memcpy(buffer_.data() + layout[i].offset, values_[i].data(), layout[i].size);
    }
    buffer_bytes_ = buffer_.size();
    extra_ = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer_.data(), CU_LAUNCH_PARAM_BUFFER_SIZE,
              &buffer_bytes_, CU_LAUNCH_PARAM_END};
    return extra_.data();
  }

 private:
  std::vector<std::vector<unsigned char>> values_;
  std::vector<void*> pointers_;
  std::vector<unsigned char> buffer_;
  std::size_t buffer_bytes_ = 0;
  std::vector<void*> extra_;
};

/// Bytes with one word at an offset, like a struct that carries a pointer.
inline std::vector<unsigned char> struct_with_word(std::size_t size, std::size_t offset,
                                                   std::uint64_t word) {
  std::vector<unsigned char> bytes(size);
  std::memcpy(bytes.data() + offset, &word, sizeof word);
  return bytes;
}

class LaunchFixture : public ::testing::Test {
 protected:
  LaunchFixture() {
    static const heuristics::Profiles& profiles =
        *new heuristics::Profiles(heuristics::Profiles::built_in());
    static const heuristics::KernelCatalog& catalog = *new heuristics::KernelCatalog(profiles);
    set_kernel_catalog(&catalog);
    forget_functions();  // handles mean something else in each test
    reset_driver();
    reset_gate(true);
    gate().add_pool(kPoolBase, kPoolBytes);
    writer_ = driver().add_function(0x1000, kVllmWriter, kVllmWriterSizes);
    fill_ = driver().add_function(0x1100, kTorchFill, {4, 1, 8});
    unknown_ = driver().add_function(0x1200, kUnknownKernel, {8, 8, 4});
  }

  /// Their handles will be given out again, so the shim must hear of the ends.
  void TearDown() override {
    while (!driver().executables.empty()) {
      hook_cuGraphExecDestroy(reinterpret_cast<CUgraphExec>(*driver().executables.begin()));
    }
    while (!driver().graphs.empty()) {
      hook_cuGraphDestroy(reinterpret_cast<CUgraph>(*driver().graphs.begin()));
    }
    EXPECT_TRUE(gate().pins.empty());
    while (!driver().captures.empty()) {
      hook_cuStreamDestroy_v2(driver().captures.begin()->first);
    }
  }

  /// vLLM's call for `heads` heads of `size` elements of two bytes, K in the
  /// first half of the pool and V in the second.
  static Arguments writer_arguments(std::uint64_t key_cache = kPoolBase) {
    Arguments arguments;
    arguments.add(kElsewhere).add(kElsewhere + 0x1000);                  // key, value
    arguments.add(key_cache).add(key_cache + kPoolBytes / 2);            // key_cache, value_cache
    arguments.add(kElsewhere + 0x2000);                                  // slot_mapping
    arguments.add(std::int64_t{16 * 2 * 64}).add(std::int64_t{2 * 64});  // block, page stride
    arguments.add(std::int64_t{64}).add(std::int64_t{128}).add(std::int64_t{128});
    arguments.add(2).add(64).add(16);  // heads, head size, block
    arguments.add(kElsewhere + 0x3000).add(kElsewhere + 0x4000).add(0);
    return arguments;
  }

  static CUresult launch(CUfunction function, Arguments arguments, unsigned int grid = 1,
                         CUstream stream = nullptr) {
    return hook_cuLaunchKernel(function, grid, 1, 1, 128, 1, 1, 0, stream, arguments.params(),
                               nullptr);
  }

  static Arguments unknown_arguments(std::uint64_t out, std::uint64_t in = kElsewhere) {
    Arguments arguments;
    arguments.add(out).add(in).add(7);
    return arguments;
  }

  CUfunction writer_ = nullptr;
  CUfunction fill_ = nullptr;
  CUfunction unknown_ = nullptr;
};

inline bool operator_equal(const Access& a, const Access& b) {
  return a.address == b.address && a.bytes == b.bytes && a.writes == b.writes;
}

/// For EXPECT_EQ over lists of accesses.
struct AccessList {
  std::vector<Access> accesses;
  friend bool operator==(const AccessList& a, const AccessList& b) {
    return a.accesses.size() == b.accesses.size() &&
           std::equal(a.accesses.begin(), a.accesses.end(), b.accesses.begin(), operator_equal);
  }
  friend void PrintTo(const AccessList& list, std::ostream* out) {
    for (const Access& access : list.accesses) {
      *out << std::hex << "[" << access.address << " +" << access.bytes
           << (access.writes ? " w] " : " r] ");
    }
  }
};

}  // namespace kvshim::preload::testing
