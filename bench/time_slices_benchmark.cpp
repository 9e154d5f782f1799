// What another process's work on the same GPU (without MPS) costs this one's: the two take
// turns on the compute engine, and whatever runs there comes a time slice late; copies between
// GPU and host memory have engines of their own. Then, in this process alone, what other threads
// can do while one is in a copy that waits (held_copies.h). Without the shim. One line of JSON
// for each, and tables.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "bench/device_work.h"
#include "bench/held_copies.h"
#include "bench/mapping_calls.h"
#include "bench/occupied_gpu.h"

namespace kvshim::bench {
namespace {

constexpr std::size_t kBlocks = 4;  // of each kind, gone through in turn

class Rows {
 public:
  Rows(const MappingDevice& on, bool simulator)
      : on_(on), block_(simulator ? 2 * kMebibyte : 32 * kMebibyte), times_(simulator ? 4 : 64) {
    KVSHIM_BENCH_CHECK(
        cuModuleGetFunction(&nothing_, load_bench_kernels(), "kvshim_bench_nothing"));
    KVSHIM_BENCH_CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    gpu_ = mapped(CU_MEM_LOCATION_TYPE_DEVICE);
    host_ = mapped(CU_MEM_LOCATION_TYPE_HOST_NUMA);
    void* pinned = nullptr;
    KVSHIM_BENCH_CHECK(cuMemHostAlloc(&pinned, kBlocks * block_, 0));
    pinned_ = static_cast<std::byte*>(pinned);
    KVSHIM_BENCH_CHECK(cuMemAddressReserve(&spare_, block_, 0, 0, 0));
    KVSHIM_BENCH_CHECK(cuMemsetD8Async(gpu_, 1, kBlocks * block_, stream_));
    finish();
  }

  void measure(const Occupation& beside) {
    const OccupiedGpu other(beside);
    beside_ = beside.name;
    const auto copy = [this](CUdeviceptr to, CUdeviceptr from, std::size_t i) {
      KVSHIM_BENCH_CHECK(cuMemcpyDtoDAsync(to + offset(i), from + offset(i), block_, stream_));
    };
    there_and_back("empty kernel", 0, [&](std::size_t) { launch(); });
    there_and_back("copy to host handles", 1, [&](std::size_t i) { copy(host_, gpu_, i); });
    there_and_back("8 copies to host handles", 8, [&](std::size_t) {
      for (std::size_t k = 0; k < 8; ++k) copy(host_, gpu_, k);
    });
    there_and_back("copy to host handles, empty kernel", 1, [&](std::size_t i) {
      copy(host_, gpu_, i);
      launch();
    });
    there_and_back("copy to pinned memory", 1, [&](std::size_t i) {
      KVSHIM_BENCH_CHECK(cuMemcpyDtoHAsync(pinned_ + offset(i), gpu_ + offset(i), block_, stream_));
    });
    there_and_back("copy from host handles", 1, [&](std::size_t i) { copy(gpu_, host_, i); });
    there_and_back("copy from GPU to GPU", 1,
                   [&](std::size_t i) { copy(gpu_ + 2 * block_, gpu_, i % 2); });
    there_and_back("fill", 1, [&](std::size_t i) {
      KVSHIM_BENCH_CHECK(cuMemsetD8Async(gpu_ + offset(i), 1, block_, stream_));
    });
    map();
  }

  void print_table() const { std::fputs(table_.c_str(), stdout); }

 private:
  std::size_t offset(std::size_t i) const { return i % kBlocks * block_; }
  CUdeviceptr mapped(CUmemLocationType location) const {
    CUdeviceptr base = 0;
    KVSHIM_BENCH_CHECK(cuMemAddressReserve(&base, kBlocks * block_, 0, 0, 0));
    const MappingHandles handles = make_handles(on_, location, block_, kBlocks * block_);
    if (handles.empty()) {
      std::fprintf(stderr, "the driver makes no handles of %zu MiB\n", block_ / kMebibyte);
      std::exit(1);
    }
    MappingTimes untold;
    KVSHIM_BENCH_CHECK(map_joined(on_, base, block_, handles, 0, kBlocks, &untold));
    return base;
  }
  void launch() {
    KVSHIM_BENCH_CHECK(cuLaunchKernel(nothing_, 1, 1, 1, 1, 1, 1, 0, stream_, nullptr, nullptr));
  }
  // As the host sees the end soonest, and without a call that sleeps.
  void finish() {
    CUresult state = CUDA_ERROR_NOT_READY;
    while (state == CUDA_ERROR_NOT_READY) state = cuStreamQuery(stream_);
    KVSHIM_BENCH_CHECK(state);
  }

  void there_and_back(const char* what, std::size_t blocks,
                      const std::function<void(std::size_t)>& submit) {
    submit(0);  // what comes only once
    finish();
    std::vector<double> times;
    for (std::size_t i = 0; i < times_; ++i) {
      const Timer timer;
      submit(i);
      finish();
      times.push_back(timer.microseconds());
    }
    const double middle = median(times);
    print(what, middle, *std::max_element(times.begin(), times.end()),
          static_cast<double>(blocks * block_) / 1e3 / middle);
  }

  void map() {
    std::vector<double> times;
    for (std::size_t i = 0; i < times_; ++i) {
      const Timer timer;
      MappingHandles handle = make_handles(on_, CU_MEM_LOCATION_TYPE_DEVICE, block_, block_);
      if (handle.empty()) return;
      MappingTimes untold;
      KVSHIM_BENCH_CHECK(map_joined(on_, spare_, block_, handle, 0, 1, &untold));
      KVSHIM_BENCH_CHECK(unmap_timed(spare_, block_, &untold));
      release_handles(&handle);
      times.push_back(timer.microseconds());
    }
    print("create, map, open, unmap, release", median(times),
          *std::max_element(times.begin(), times.end()), 0);
  }

  void print(const char* what, double middle, double longest, double rate) {
    char line[256];
    std::printf(
        "{\"scenario\":\"time_slices\",\"beside\":\"%s\",\"what\":\"%s\",\"block_mib\":%zu,"
        "\"p50_us\":%.1f,\"max_us\":%.1f,\"gb_s\":%.2f}\n",
        beside_.c_str(), what, block_ / kMebibyte, middle, longest, rate);
    std::fflush(stdout);
    std::snprintf(line, sizeof line, "%-16s %-35s p50 %9.1f us  max %9.1f us", beside_.c_str(),
                  what, middle, longest);
    table_ += line;
    if (rate > 0) {
      std::snprintf(line, sizeof line, " %8.1f GB/s", rate);
      table_ += line;
    }
    table_ += '\n';
  }

  const MappingDevice& on_;
  const std::size_t block_, times_;
  CUfunction nothing_ = nullptr;
  CUstream stream_ = nullptr;
  CUdeviceptr gpu_ = 0, host_ = 0, spare_ = 0;
  std::byte* pinned_ = nullptr;
  std::string beside_, table_;
};

int run(int count, char** arguments) {
  occupy_if_asked(count, arguments);
  const MappingDevice on;
  char name[128] = "";
  KVSHIM_BENCH_CHECK(cuDeviceGetName(name, sizeof name, on.device));
  const bool simulator = std::string(name) == "kvshim simulator";
  Rows rows(on, simulator);
  for (const Occupation& beside : kOccupations) rows.measure(beside);
  const std::string held = measure_held_copies(on, simulator);
  std::printf("\n%s%s\n", name, simulator ? ": the times mean nothing" : "");
  rows.print_table();
  std::printf("\n%s", held.c_str());
  return 0;
}

}  // namespace
}  // namespace kvshim::bench

int main(int count, char** arguments) { return kvshim::bench::run(count, arguments); }
