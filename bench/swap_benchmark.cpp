#include "bench/swap_benchmark.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "bench/device_work.h"
#include "bench/mapped_memory.h"

extern "C" const char kvshim_ptx_bench_kernels[];
extern "C" __attribute__((weak)) void kvshim_simulator_add_kernel(const char* name,
                                                                  void (*call)(void* const*));

namespace kvshim::bench {
namespace {

constexpr std::size_t kTotal = 512 * kMebibyte;
constexpr double kTotalMib = static_cast<double>(kTotal / kMebibyte);
constexpr std::size_t kResident = kGranuleBytes;   // handles as faults make them
constexpr std::size_t kBlock = 8 * kMebibyte;      // handles as parking uses them
constexpr std::size_t kCopied = 2048 * kMebibyte;  // beside swaps, each time: 40 ms
constexpr std::size_t kCopyBuffer = 128 * kMebibyte;
constexpr std::size_t kSmallPiece = 2 * kMebibyte;
constexpr std::size_t kLargePiece = 64 * kMebibyte;

enum class Beside { kNothing, kCopiesToHost, kCopiesToDevice };

/// What runs beside the calls. The pieces of copies, and who makes them, tell whether the
/// driver's calls wait for pieces, or for the bus, or for the copy engines.
struct Load {
  Beside beside = Beside::kNothing;
  std::size_t piece = kBlock;
  bool by_kernel = false;
};

std::string name_of(const Load& load) {
  if (load.beside == Beside::kNothing) return "nothing";
  return std::string(load.beside == Beside::kCopiesToHost ? "copies to host" : "copies to device") +
         " in pieces of " + std::to_string(load.piece >> 10) + " KiB" +
         (load.by_kernel ? " by a kernel" : "");
}

/// Copies, enqueued before what they run beside.
class Copies {
 public:
  explicit Copies(const MappingDevice& on)
      : device_(on, CU_MEM_LOCATION_TYPE_DEVICE, kBlock, kCopyBuffer),
        host_(on, CU_MEM_LOCATION_TYPE_HOST_NUMA, kBlock, kCopyBuffer) {
    KVSHIM_BENCH_CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
    KVSHIM_BENCH_CHECK(cuEventCreate(&begin_, CU_EVENT_DEFAULT));
    KVSHIM_BENCH_CHECK(cuEventCreate(&end_, CU_EVENT_DEFAULT));
    if (kvshim_simulator_add_kernel != nullptr) {
      kvshim_simulator_add_kernel("kvshim_bench_copy", [](void* const*) {});
    }
    CUmodule module = nullptr;
    KVSHIM_BENCH_CHECK(cuModuleLoadData(&module, kvshim_ptx_bench_kernels));
    KVSHIM_BENCH_CHECK(cuModuleGetFunction(&kernel_, module, "kvshim_bench_copy"));
    start({Beside::kCopiesToHost, kBlock, true});  // its first launch loads it
    finish({Beside::kCopiesToHost, kBlock, true});
  }
  ~Copies() {
    cuEventDestroy(begin_);
    cuEventDestroy(end_);
    cuStreamDestroy(stream_);
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;

  void start(const Load& load, std::size_t bytes = kCopied) {
    if (load.beside == Beside::kNothing) return;
    const bool to_host = load.beside == Beside::kCopiesToHost;
    const Mapped& from = to_host ? device_ : host_;
    const Mapped& to = to_host ? host_ : device_;
    KVSHIM_BENCH_CHECK(cuEventRecord(begin_, stream_));
    for (std::size_t at = 0; at < bytes; at += load.piece) {
      const std::size_t offset = at % kCopyBuffer;
      copy(to.at(offset), from.at(offset), load);
    }
    KVSHIM_BENCH_CHECK(cuEventRecord(end_, stream_));
  }
  /// Whether they go on, and so went on beside all that was done since start().
  bool go_on(const Load& load) const {
    return load.beside == Beside::kNothing || cuStreamQuery(stream_) == CUDA_ERROR_NOT_READY;
  }
  /// Waits for their end. GB/s.
  double finish(const Load& load) {
    KVSHIM_BENCH_CHECK(cuStreamSynchronize(stream_));
    if (load.beside == Beside::kNothing) return 0;
    float milliseconds = 0;
    KVSHIM_BENCH_CHECK(cuEventElapsedTime(&milliseconds, begin_, end_));
    return milliseconds > 0 ? static_cast<double>(kCopied) / 1e6 / milliseconds : 0;
  }

 private:
  void copy(CUdeviceptr to, CUdeviceptr from, const Load& load) {
    if (!load.by_kernel) {
      KVSHIM_BENCH_CHECK(cuMemcpyDtoDAsync(to, from, load.piece, stream_));
      return;
    }
    unsigned long long words = load.piece / 16;
    void* parameters[] = {&to, &from, &words};
    KVSHIM_BENCH_CHECK(
        cuLaunchKernel(kernel_, 64, 1, 1, 512, 1, 1, 0, stream_, parameters, nullptr));
  }

  Mapped device_, host_;
  CUstream stream_ = nullptr;
  CUevent begin_ = nullptr, end_ = nullptr;
  CUfunction kernel_ = nullptr;
};

std::string json(const MappingTimes& times, const char* prefix, double mib) {
  char text[256];
  std::snprintf(text, sizeof text,
                "\"%sunmap_us_per_mib\":%.2f,\"%smap_us_per_mib\":%.2f,"
                "\"%saccess_us_per_mib\":%.2f",
                prefix, times.unmap / mib, prefix, times.map / mib, prefix, times.access / mib);
  return text;
}

void print_line(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void measure_joined(const MappingDevice& on, const MappingKind& kind, std::size_t handle_bytes,
                    const MappingHandles& handles, std::size_t joined) {
  const Addresses addresses(kTotal);
  const std::size_t bytes = joined * handle_bytes;
  MappingTimes times;
  CUresult opened = CUDA_SUCCESS, unmapped = CUDA_SUCCESS;
  for (int round = 0; round < 2 && opened == CUDA_SUCCESS && unmapped == CUDA_SUCCESS; ++round) {
    times = {};  // the second round counts: without what comes only once
    std::size_t mapped = 0;
    for (; mapped < handles.size() && opened == CUDA_SUCCESS; mapped += joined) {
      opened = map_joined(on, addresses.at(mapped * handle_bytes), handle_bytes, handles, mapped,
                          joined, &times);
    }
    for (std::size_t at = 0; at < mapped; at += joined) {
      const CUdeviceptr address = addresses.at(at * handle_bytes);
      if (unmapped == CUDA_SUCCESS) unmapped = unmap_timed(address, bytes, &times);
      if (unmapped == CUDA_SUCCESS) continue;
      for (std::size_t i = 0; i < joined; ++i) cuMemUnmap(address + i * handle_bytes, handle_bytes);
    }
  }
  char head[256];
  std::snprintf(head, sizeof head,
                "{\"scenario\":\"joined_mapping\",\"kind\":\"%s\",\"handle_mib\":%zu,"
                "\"joined\":%zu,\"opens\":%d,\"unmaps\":%d,",
                kind.name, handle_bytes / kMebibyte, joined, static_cast<int>(opened),
                static_cast<int>(unmapped));
  print_line(head + json(times, "", kTotalMib) + "}");
}

struct SwapCase {
  Load load;
  std::size_t joined;  // blocks
  bool window;         // the host memory is mapped elsewhere as well, as parking's is
};

/// A round: out and back, at addresses where handles of kResident are mapped.
void measure_round(const MappingDevice& on, const SwapCase& what, const Addresses& pool,
                   const MappingHandles& host, const MappingHandles& blocks, Copies* copies,
                   const char* round) {
  const std::size_t bytes = what.joined * kBlock;
  bool beside_all = true;
  double rate[2] = {0, 0};
  MappingTimes times[2];
  for (int back = 0; back < 2; ++back) {
    copies->start(what.load);
    for (std::size_t i = 0; i < host.size(); i += what.joined) {
      const CUdeviceptr address = pool.at(i * kBlock);
      KVSHIM_BENCH_CHECK(unmap_timed(address, bytes, &times[back]));
      KVSHIM_BENCH_CHECK(
          map_joined(on, address, kBlock, back != 0 ? blocks : host, i, what.joined, &times[back]));
    }
    beside_all = copies->go_on(what.load) && beside_all;
    rate[back] = copies->finish(what.load);
  }
  char head[256], tail[160];
  std::snprintf(head, sizeof head,
                "{\"scenario\":\"swap\",\"beside\":\"%s\",\"joined\":%zu,\"window\":%s,"
                "\"round\":\"%s\",",
                name_of(what.load).c_str(), what.joined, what.window ? "true" : "false", round);
  std::snprintf(tail, sizeof tail,
                ",\"copies_lasted\":%s,\"copies_gb_s\":%.1f,\"back_copies_gb_s\":%.1f}",
                beside_all ? "true" : "false", rate[0], rate[1]);
  print_line(head + json(times[0], "", kTotalMib) + "," + json(times[1], "back_", kTotalMib) +
             tail);
}

void measure_swap(const MappingDevice& on, const SwapCase& what, const Mapped& with_window,
                  const MappingHandles& without, Copies* copies) {
  const Addresses pool(kTotal);
  MappingHandles resident = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, kResident, kTotal);
  MappingHandles blocks = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, kBlock, kTotal);
  if (resident.empty() || blocks.empty()) return;
  const MappingHandles& host = what.window ? with_window.handles() : without;
  for (const char* round : {"first", "again"}) {
    MappingTimes untold;
    for (std::size_t i = 0; i < resident.size(); ++i) {
      KVSHIM_BENCH_CHECK(
          map_joined(on, pool.at(i * kResident), kResident, resident, i, 1, &untold));
    }
    measure_round(on, what, pool, host, blocks, copies, round);
    KVSHIM_BENCH_CHECK(cuMemUnmap(pool.at(0), kTotal));
  }
  release_handles(&resident);
  release_handles(&blocks);
}

void measure_pace(const MappingDevice& on, std::size_t block, std::size_t count, bool joined,
                  Copies* copies) {
  const Addresses pool(kTotal);
  const Mapped host(on, CU_MEM_LOCATION_TYPE_HOST_NUMA, block, kTotal);
  MappingHandles resident = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, block, kTotal);
  if (resident.empty() || host.handles().empty()) return;
  MappingTimes times;
  KVSHIM_BENCH_CHECK(map_joined(on, pool.at(0), block, resident, 0, resident.size(), &times));
  times = {};
  const Load load{Beside::kCopiesToHost, block};
  const std::size_t each = joined ? count : 1;
  const Timer timer;
  for (std::size_t i = 0; i < resident.size(); i += count) {
    copies->start(load, count * block);
    for (std::size_t k = i; k < i + count; k += each) {
      KVSHIM_BENCH_CHECK(unmap_timed(pool.at(k * block), each * block, &times));
      KVSHIM_BENCH_CHECK(
          map_joined(on, pool.at(k * block), block, host.handles(), k, each, &times));
    }
    while (copies->go_on(load)) continue;
  }
  const double took = timer.microseconds();
  KVSHIM_BENCH_CHECK(cuMemUnmap(pool.at(0), kTotal));
  release_handles(&resident);
  char head[192];
  std::snprintf(head, sizeof head,
                "{\"scenario\":\"pace\",\"block_mib\":%zu,\"blocks\":%zu,\"joined\":%s,"
                "\"us_per_mib\":%.2f,",
                block / kMebibyte, count, joined ? "true" : "false", took / kTotalMib);
  print_line(head + json(times, "", kTotalMib) + "}");
}

void measure_release(const MappingDevice& on, std::size_t handle_bytes, const Load& load,
                     Copies* copies) {
  const Addresses addresses(kTotal);
  MappingHandles handles = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, handle_bytes, kTotal);
  if (handles.empty()) return;
  MappingTimes untold;
  KVSHIM_BENCH_CHECK(
      map_joined(on, addresses.at(0), handle_bytes, handles, 0, handles.size(), &untold));
  KVSHIM_BENCH_CHECK(cuMemUnmap(addresses.at(0), kTotal));
  copies->start(load);
  const Timer releasing;
  release_handles(&handles);
  const double released = releasing.microseconds();
  bool lasted = copies->go_on(load);
  copies->finish(load);
  copies->start(load);
  const Timer making;
  handles = make_handles(on, CU_MEM_LOCATION_TYPE_DEVICE, handle_bytes, kTotal);
  const double made = making.microseconds();
  lasted = copies->go_on(load) && lasted;
  copies->finish(load);
  release_handles(&handles);
  char line[256];
  std::snprintf(line, sizeof line,
                "{\"scenario\":\"release\",\"beside\":\"%s\",\"handle_mib\":%zu,"
                "\"release_us_per_mib\":%.2f,\"make_us_per_mib\":%.2f,\"copies_lasted\":%s}",
                name_of(load).c_str(), handle_bytes / kMebibyte, released / kTotalMib,
                made / kTotalMib, lasted ? "true" : "false");
  print_line(line);
}

}  // namespace

void measure_joined_mappings(const MappingDevice& on) {
  const MappingKind kinds[] = {{"host_numa", CU_MEM_LOCATION_TYPE_HOST_NUMA},
                               {"device", CU_MEM_LOCATION_TYPE_DEVICE}};
  for (const MappingKind& kind : kinds) {
    for (const std::size_t bytes : {kResident, kBlock}) {
      MappingHandles handles = make_handles(on, kind.location, bytes, kTotal);
      for (const std::size_t joined : {1, 4, 16}) {
        if (!handles.empty()) measure_joined(on, kind, bytes, handles, joined);
      }
      release_handles(&handles);
    }
  }
}

void measure_swaps(const MappingDevice& on) {
  const Mapped with_window(on, CU_MEM_LOCATION_TYPE_HOST_NUMA, kBlock, kTotal);
  MappingHandles without = make_handles(on, CU_MEM_LOCATION_TYPE_HOST_NUMA, kBlock, kTotal);
  if (with_window.handles().empty() || without.empty()) return;
  Copies copies(on);
  measure_swap(on, {{}, 1, false}, with_window, without, &copies);
  for (const Beside beside : {Beside::kNothing, Beside::kCopiesToHost, Beside::kCopiesToDevice}) {
    for (const std::size_t joined : {1, 4, 16}) {
      measure_swap(on, {{beside}, joined, true}, with_window, without, &copies);
    }
  }
  const Load others[] = {{Beside::kCopiesToHost, kSmallPiece},
                         {Beside::kCopiesToHost, kLargePiece},
                         {Beside::kCopiesToHost, kBlock, true}};
  for (const Load& load : others) {
    measure_swap(on, {load, 1, true}, with_window, without, &copies);
  }
  release_handles(&without);
}

void measure_paces(const MappingDevice& on) {
  Copies copies(on);
  for (const std::size_t count : {1, 2, 4, 16}) measure_pace(on, kBlock, count, false, &copies);
  for (const std::size_t count : {2, 4, 16}) measure_pace(on, kBlock, count, true, &copies);
  for (const std::size_t count : {1, 4}) {
    measure_pace(on, 32 * kMebibyte, count, false, &copies);
  }
}

void measure_releases(const MappingDevice& on) {
  Copies copies(on);
  for (const Load& load : {Load{}, Load{Beside::kCopiesToHost}, Load{Beside::kCopiesToDevice}}) {
    for (const std::size_t mib : {2, 8, 32}) {
      measure_release(on, mib * kMebibyte, load, &copies);
    }
  }
}

}  // namespace kvshim::bench
