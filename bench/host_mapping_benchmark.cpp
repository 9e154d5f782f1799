// What giving the GPU access to host memory costs the driver: by the kind of location,
// the size of a handle, and with a second thread at it; then joined calls, whole swaps and
// releases (swap_benchmark.h), and blocks in parts (part_benchmark.h; with the argument "parts"
// nothing else). Parking is bound by these calls (each parked piece is mapped
// where it was), so the cheapest way decides how fast it can be. Without the shim. One line
// of JSON for each combination.
#include <cstdio>
#include <cstring>
#include <thread>

#include "bench/device_work.h"
#include "bench/mapping_calls.h"
#include "bench/part_benchmark.h"
#include "bench/swap_benchmark.h"

namespace kvshim::bench {
namespace {

constexpr std::size_t kBytes = 512 * kMebibyte;  // of each combination

/// Maps all handles one after the other and unmaps them again.
MappingTimes go_through(const MappingDevice& on, CUdeviceptr base, std::size_t bytes,
                        const MappingHandles& handles) {
  KVSHIM_BENCH_CHECK(cuCtxSetCurrent(on.context));
  MappingTimes times;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    KVSHIM_BENCH_CHECK(map_joined(on, base + i * bytes, bytes, handles, i, 1, &times));
  }
  for (std::size_t i = 0; i < handles.size(); ++i) {
    KVSHIM_BENCH_CHECK(unmap_timed(base + i * bytes, bytes, &times));
  }
  return times;
}

void measure(const MappingDevice& on, const MappingKind& kind, std::size_t bytes,
             CUdeviceptr base) {
  const Timer making;
  MappingHandles handles = make_handles(on, kind.location, bytes, kBytes);
  if (handles.empty()) {
    std::printf("{\"scenario\":\"host_mapping\",\"kind\":\"%s\",\"supported\":false}\n", kind.name);
    return;
  }
  const double made = making.microseconds();
  go_through(on, base, bytes, handles);  // what comes only once
  const MappingTimes one = go_through(on, base, bytes, handles);
  const auto middle = handles.begin() + static_cast<std::ptrdiff_t>(handles.size() / 2);
  const MappingHandles first(handles.begin(), middle), second(middle, handles.end());
  const Timer together;
  std::thread other([&] { go_through(on, base + kBytes, bytes, second); });
  go_through(on, base, bytes, first);
  other.join();
  const double two = together.microseconds();
  release_handles(&handles);
  const double mib = static_cast<double>(kBytes / kMebibyte);
  std::printf(
      "{\"scenario\":\"host_mapping\",\"kind\":\"%s\",\"handle_mib\":%zu,\"make_us_per_mib\":%.2f,"
      "\"map_us_per_mib\":%.2f,\"access_us_per_mib\":%.2f,\"unmap_us_per_mib\":%.2f,"
      "\"two_threads_us_per_mib\":%.2f}\n",
      kind.name, bytes / kMebibyte, made / mib, one.map / mib, one.access / mib, one.unmap / mib,
      two / mib);
  std::fflush(stdout);
}

}  // namespace
}  // namespace kvshim::bench

int main(int count, char** arguments) {
  using namespace kvshim::bench;
  const MappingDevice on;
  if (count == 2 && std::strcmp(arguments[1], "parts") == 0) {
    measure_parts(on);
    return 0;
  }
  CUdeviceptr base = 0;
  KVSHIM_BENCH_CHECK(cuMemAddressReserve(&base, 2 * kBytes, 256 * kMebibyte, 0, 0));
  const MappingKind kinds[] = {{"device", CU_MEM_LOCATION_TYPE_DEVICE},
                               {"host_numa", CU_MEM_LOCATION_TYPE_HOST_NUMA},
                               {"host_numa_current", CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT},
                               {"host", CU_MEM_LOCATION_TYPE_HOST}};
  for (const MappingKind& kind : kinds) {
    for (const std::size_t mib : {2, 8, 64}) measure(on, kind, mib * kMebibyte, base);
  }
  KVSHIM_BENCH_CHECK(cuMemAddressFree(base, 2 * kBytes));
  measure_joined_mappings(on);
  measure_swaps(on);
  measure_paces(on);
  measure_releases(on);
  measure_parts(on);
  return 0;
}
