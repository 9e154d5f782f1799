// What giving the GPU access to host memory costs the driver: by the kind of location,
// the size of a handle, and with a second thread at it. Parking is bound by it (each
// parked piece is mapped where it was), so the cheapest way decides how fast it can be.
// Without the shim. One line of JSON for each combination.
#include <cuda.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kBytes = 512 * kMiB;  // of each combination

struct Kind {
  const char* name;
  CUmemLocationType location;
};

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = "?";
  cuGetErrorName(result, &name);
  std::fprintf(stderr, "%s: %s\n", call, name);
  std::exit(1);
}
#define CHECK(call) check(call, #call)

CUdevice device = 0;
CUcontext context = nullptr;
int numa_node = 0;

double microseconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

bool make(const Kind& kind, std::size_t bytes, CUmemGenericAllocationHandle* handle) {
  CUmemAllocationProp wanted{};
  wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  wanted.location.type = kind.location;
  if (kind.location == CU_MEM_LOCATION_TYPE_DEVICE) wanted.location.id = device;
  if (kind.location == CU_MEM_LOCATION_TYPE_HOST_NUMA) wanted.location.id = numa_node;
  return cuMemCreate(handle, bytes, &wanted, 0) == CUDA_SUCCESS;
}

struct Times {
  double map = 0, access = 0, unmap = 0;  // microseconds, sums
};

/// Maps all handles one after the other and unmaps them again.
Times go_through(CUdeviceptr base, std::size_t bytes,
                 const std::vector<CUmemGenericAllocationHandle>& handles) {
  CHECK(cuCtxSetCurrent(context));
  CUmemAccessDesc access{};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  Times times;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    auto begin = std::chrono::steady_clock::now();
    CHECK(cuMemMap(base + i * bytes, bytes, 0, handles[i], 0));
    times.map += microseconds_since(begin);
    begin = std::chrono::steady_clock::now();
    CHECK(cuMemSetAccess(base + i * bytes, bytes, &access, 1));
    times.access += microseconds_since(begin);
  }
  const auto begin = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < handles.size(); ++i) CHECK(cuMemUnmap(base + i * bytes, bytes));
  times.unmap = microseconds_since(begin);
  return times;
}

void measure(const Kind& kind, std::size_t bytes, CUdeviceptr base) {
  std::vector<CUmemGenericAllocationHandle> handles(kBytes / bytes);
  const auto begin = std::chrono::steady_clock::now();
  for (auto& handle : handles) {
    if (make(kind, bytes, &handle)) continue;
    std::printf("{\"scenario\":\"host_mapping\",\"kind\":\"%s\",\"supported\":false}\n", kind.name);
    return;
  }
  const double made = microseconds_since(begin);
  go_through(base, bytes, handles);  // what comes only once
  const Times one = go_through(base, bytes, handles);
  const std::vector<CUmemGenericAllocationHandle> first(handles.begin(),
                                                        handles.begin() + handles.size() / 2);
  const std::vector<CUmemGenericAllocationHandle> second(handles.begin() + handles.size() / 2,
                                                         handles.end());
  const auto together = std::chrono::steady_clock::now();
  std::thread other([&] { go_through(base + kBytes, bytes, second); });
  go_through(base, bytes, first);
  other.join();
  const double two = microseconds_since(together);
  for (const auto handle : handles) CHECK(cuMemRelease(handle));
  const double mib = static_cast<double>(kBytes / kMiB);
  std::printf(
      "{\"scenario\":\"host_mapping\",\"kind\":\"%s\",\"handle_mib\":%zu,\"make_us_per_mib\":%.2f,"
      "\"map_us_per_mib\":%.2f,\"access_us_per_mib\":%.2f,\"unmap_us_per_mib\":%.2f,"
      "\"two_threads_us_per_mib\":%.2f}\n",
      kind.name, bytes / kMiB, made / mib, one.map / mib, one.access / mib, one.unmap / mib,
      two / mib);
}

}  // namespace

int main() {
  CHECK(cuInit(0));
  CHECK(cuDeviceGet(&device, 0));
  CHECK(cuDevicePrimaryCtxRetain(&context, device));
  CHECK(cuCtxSetCurrent(context));
  cuDeviceGetAttribute(&numa_node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device);
  numa_node = std::max(numa_node, 0);
  CUdeviceptr base = 0;
  CHECK(cuMemAddressReserve(&base, 2 * kBytes, 256 * kMiB, 0, 0));
  const Kind kinds[] = {{"device", CU_MEM_LOCATION_TYPE_DEVICE},
                        {"host_numa", CU_MEM_LOCATION_TYPE_HOST_NUMA},
                        {"host_numa_current", CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT},
                        {"host", CU_MEM_LOCATION_TYPE_HOST}};
  for (const Kind& kind : kinds) {
    for (const std::size_t mib : {2, 8, 64}) measure(kind, mib * kMiB, base);
  }
  CHECK(cuMemAddressFree(base, 2 * kBytes));
  return 0;
}
