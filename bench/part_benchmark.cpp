#include "bench/part_benchmark.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "bench/device_work.h"
#include "bench/mapped_memory.h"
#include "vmm/copy_steps.h"

namespace kvshim::bench {
namespace {

constexpr std::size_t kTotal = 512 * kMebibyte;
constexpr double kTotalMib = 512;

enum class Copies { kNone, kAtOnce, kInSteps };

const char* name_of(Copies copies) {
  if (copies == Copies::kNone) return "none";
  return copies == Copies::kAtOnce ? "at once" : "in steps";
}

/// Copies on a stream of its own.
class Copier {
 public:
  Copier() {
    KVSHIM_BENCH_CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    void* word = nullptr;
    KVSHIM_BENCH_CHECK(cuMemHostAlloc(&word, sizeof(std::uint32_t), CU_MEMHOSTALLOC_DEVICEMAP));
    std::memset(word, 0, sizeof(std::uint32_t));
    CUdeviceptr word_on_device = 0;
    KVSHIM_BENCH_CHECK(cuMemHostGetDevicePointer(&word_on_device, word, 0));
    driver_.cuStreamWaitValue32_v2 = &::cuStreamWaitValue32;
    driver_.cuMemcpyDtoDAsync_v2 = &::cuMemcpyDtoDAsync;
    steps_ = std::make_unique<vmm::CopySteps>(driver_, stream_, static_cast<std::uint32_t*>(word),
                                              word_on_device);
  }
  vmm::CopySteps& steps() { return *steps_; }
  void wait() const {
    while (cuStreamQuery(stream_) == CUDA_ERROR_NOT_READY) continue;
  }

 private:
  CUstream stream_ = nullptr;
  vmm::DriverApi driver_;
  std::unique_ptr<vmm::CopySteps> steps_;
};

struct PartCase {
  std::size_t handle, block, part;  // bytes; of GPU memory, of what is swapped, of host memory
  Copies copies;
};

void measure(const MappingDevice& on, const PartCase& what, Copier* copier) {
  const Addresses pool(kTotal);
  const Mapped host(on, CU_MEM_LOCATION_TYPE_HOST_NUMA, what.part, kTotal);
  const MappingHandles& slabs = host.handles();
  MappingHandles resident = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, what.handle, kTotal);
  if (resident.empty() || slabs.empty()) return;
  MappingTimes times;
  KVSHIM_BENCH_CHECK(map_joined(on, pool.at(0), what.handle, resident, 0, resident.size(), &times));
  times = {};
  const std::size_t parts = what.block / what.part, blocks = kTotal / what.block;
  const auto copy = [&](std::size_t block) {
    if (what.copies == Copies::kNone || block == blocks) return;
    std::vector<vmm::AbiCopy> copies;
    for (std::size_t at = 0; at < what.block; at += what.part) {
      const std::size_t offset = block * what.block + at;
      copies.push_back({pool.at(offset), host.at(offset), what.part});
    }
    copier->steps().submit(copies);
    if (what.copies == Copies::kAtOnce) copier->steps().let_all_go();
  };
  std::vector<double> swaps;
  const Timer all;
  copy(0);
  copier->steps().let_all_go();
  for (std::size_t i = 0; i < blocks; ++i) {
    copier->wait();
    copy(i + 1);
    const Timer swap;
    KVSHIM_BENCH_CHECK(unmap_timed(pool.at(i * what.block), what.block, &times));
    for (std::size_t k = 0; k < parts; ++k) {
      if (k != 0) copier->steps().let_next_go();
      KVSHIM_BENCH_CHECK(map_joined(on, pool.at(i * what.block + k * what.part), what.part, slabs,
                                    i * parts + k, 1, &times));
    }
    swaps.push_back(swap.microseconds());
    copier->steps().let_all_go();
  }
  copier->wait();
  const double took = all.microseconds();
  KVSHIM_BENCH_CHECK(cuMemUnmap(pool.at(0), kTotal));
  release_handles(&resident);
  std::printf(
      "{\"scenario\":\"parts\",\"handle_mib\":%zu,\"block_mib\":%zu,\"part_mib\":%zu,\"copies\":\"%"
      "s\","
      "\"us_per_mib\":%.2f,\"gb_s\":%.1f,\"unmap_us_per_mib\":%.2f,\"access_us_per_mib\":%.2f,"
      "\"swap_p50_us\":%.0f,\"swap_max_us\":%.0f}\n",
      what.handle / kMebibyte, what.block / kMebibyte, what.part / kMebibyte, name_of(what.copies),
      took / kTotalMib, static_cast<double>(kTotal) / 1e3 / took, times.unmap / kTotalMib,
      times.access / kTotalMib, median(swaps), *std::max_element(swaps.begin(), swaps.end()));
  std::fflush(stdout);
}

}  // namespace

void measure_parts(const MappingDevice& on) {
  constexpr std::size_t k2 = 2 * kMebibyte, k8 = 8 * kMebibyte, k16 = 16 * kMebibyte,
                        k32 = 32 * kMebibyte;
  Copier copier;
  for (const std::size_t part : {k8, k16}) {
    for (const Copies copies : {Copies::kNone, Copies::kAtOnce, Copies::kInSteps}) {
      measure(on, {k32, k32, part, copies}, &copier);
    }
  }
  for (const std::size_t handle : {k2, k8, k32}) {  // one part each: no steps
    for (const Copies copies : {Copies::kNone, Copies::kAtOnce}) {
      measure(on, {handle, std::max(handle, k8), std::max(handle, k8), copies}, &copier);
    }
  }
}

}  // namespace kvshim::bench
