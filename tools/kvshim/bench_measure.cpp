#include <algorithm>
#include <array>
#include <chrono>
#include <functional>

#include "tools/kvshim/bench_driver.h"
#include "tools/kvshim/bench_figures.h"
#include "tools/kvshim/outcome.h"
#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kAtOnce = 1024 * kMiB;  // of each size of handle
constexpr std::size_t kHostPiece = 64 * kMiB;
constexpr CUdeviceptr kHint = 0x600000000000;  // where kvshim puts its pools

double microseconds(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// A context on the GPU and addresses to map to.
class Bench {
 public:
  Bench(int index, bool quick) : driver_(load_bench_driver()), quick_(quick) {
    driver_.check(driver_.cuInit(0), "cuInit");
    int count = 0;
    driver_.check(driver_.cuDeviceGetCount(&count), "cuDeviceGetCount");
    if (index >= count) {
      throw Failure(Exit::kNoGpu, "there is no GPU " + std::to_string(index) + ", there are " +
                                      std::to_string(count));
    }
    driver_.check(driver_.cuDeviceGet(&device_, index), "cuDeviceGet");
    int supported = 0;
    driver_.cuDeviceGetAttribute(&supported,
                                 CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device_);
    if (supported == 0) {
      throw Failure(Exit::kNoGpu,
                    "this GPU has no virtual memory management, so kvshim leaves its "
                    "allocations alone");
    }
    CUcontext context = nullptr;
    driver_.check(driver_.cuDevicePrimaryCtxRetain(&context, device_), "cuDevicePrimaryCtxRetain");
    driver_.check(driver_.cuCtxSetCurrent(context), "cuCtxSetCurrent");
    driver_.check(driver_.cuMemAddressReserve(&base_, kAtOnce, 256 * kMiB, kHint, 0),
                  "cuMemAddressReserve");
  }

  std::string name() const {
    std::array<char, 96> text{};
    driver_.cuDeviceGetName(text.data(), static_cast<int>(text.size()) - 1, device_);
    return printable(text.data());
  }
  int version() const {
    int number = 0;
    driver_.cuDriverGetVersion(&number);
    return number;
  }

  HandleFigures handles_of(std::size_t bytes) {
    const std::size_t count = std::min<std::size_t>(kAtOnce / bytes, quick_ ? 8 : 64);
    std::vector<CUmemGenericAllocationHandle> handles(count);
    std::vector<double> create, map, access, unmap, release;
    for (auto& handle : handles) {
      create.push_back(microseconds([&] { handle = make(bytes, CU_MEM_LOCATION_TYPE_DEVICE); }));
    }
    for (std::size_t i = 0; i < count; ++i) {
      map.push_back(microseconds([&] { map_at(i * bytes, bytes, handles[i]); }));
      access.push_back(microseconds([&] { open(i * bytes, bytes); }));
    }
    HandleFigures figures;
    figures.bytes = bytes;
    figures.swap = swap_of(bytes, handles);
    for (std::size_t i = 0; i < count; ++i) {
      unmap.push_back(microseconds([&] { unmap_at(i * bytes, bytes); }));
    }
    for (const auto handle : handles) {
      release.push_back(
          microseconds([&] { driver_.check(driver_.cuMemRelease(handle), "cuMemRelease"); }));
    }
    figures.create = median(create);
    figures.map = median(map);
    figures.access = median(access);
    figures.unmap = median(unmap);
    figures.release = median(release);
    return figures;
  }

  void plain(BenchFigures* figures) {
    CUdeviceptr address = 0;
    figures->plain_alloc_gib = microseconds(
        [&] { driver_.check(driver_.cuMemAlloc(&address, kAtOnce), "cuMemAlloc of 1 GiB"); });
    figures->plain_free_gib =
        microseconds([&] { driver_.check(driver_.cuMemFree(address), "cuMemFree"); });
  }

  /// Copies between GPU memory and host memory mapped into the GPU's addresses,
  /// as parking and coming back do.
  void host(BenchFigures* figures) {
    const std::size_t pieces = quick_ ? 1 : 2;
    const std::size_t bytes = pieces * kHostPiece;
    std::vector<CUmemGenericAllocationHandle> handles;
    const double made = microseconds([&] {
      for (std::size_t i = 0; i < pieces; ++i) handles.push_back(make_host());
    });
    figures->host_handle_gib = made * static_cast<double>(kAtOnce) / static_cast<double>(bytes);
    for (std::size_t i = 0; i < pieces; ++i) map_at(i * kHostPiece, kHostPiece, handles[i]);
    open(0, bytes);
    const CUmemGenericAllocationHandle device = make(bytes, CU_MEM_LOCATION_TYPE_DEVICE);
    map_at(bytes, bytes, device);
    open(bytes, bytes);
    CUstream stream = nullptr;
    driver_.check(driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    driver_.check(driver_.cuMemsetD8Async(base_ + bytes, 1, bytes, stream), "cuMemsetD8Async");
    figures->to_host = rate(base_, base_ + bytes, bytes, stream);
    figures->from_host = rate(base_ + bytes, base_, bytes, stream);
    driver_.cuStreamDestroy(stream);
    for (std::size_t i = 0; i < pieces; ++i) unmap_at(i * kHostPiece, kHostPiece);
    unmap_at(bytes, bytes);
    for (const auto handle : handles) driver_.cuMemRelease(handle);
    driver_.cuMemRelease(device);
  }

  void end() {
    driver_.cuMemAddressFree(base_, kAtOnce);
    driver_.cuDevicePrimaryCtxRelease(device_);
  }

 private:
  CUmemAllocationProp property(CUmemLocationType type, int id) const {
    CUmemAllocationProp property{};
    property.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    property.location = {type, id};
    return property;
  }
  CUmemGenericAllocationHandle make(std::size_t bytes, CUmemLocationType type) {
    const CUmemAllocationProp wanted = property(type, device_);
    CUmemGenericAllocationHandle handle = 0;
    driver_.check(driver_.cuMemCreate(&handle, bytes, &wanted, 0), "cuMemCreate");
    return handle;
  }
  CUmemGenericAllocationHandle make_host() {
    int node = 0;
    driver_.cuDeviceGetAttribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device_);
    const CUmemAllocationProp wanted = property(CU_MEM_LOCATION_TYPE_HOST_NUMA, std::max(node, 0));
    CUmemGenericAllocationHandle handle = 0;
    driver_.check(driver_.cuMemCreate(&handle, kHostPiece, &wanted, 0),
                  "cuMemCreate of host memory");
    return handle;
  }
  void map_at(std::size_t offset, std::size_t bytes, CUmemGenericAllocationHandle handle) {
    driver_.check(driver_.cuMemMap(base_ + offset, bytes, 0, handle, 0), "cuMemMap");
  }
  void open(std::size_t offset, std::size_t bytes) {
    CUmemAccessDesc access{};
    access.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_};
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    driver_.check(driver_.cuMemSetAccess(base_ + offset, bytes, &access, 1), "cuMemSetAccess");
  }
  void unmap_at(std::size_t offset, std::size_t bytes) {
    driver_.check(driver_.cuMemUnmap(base_ + offset, bytes), "cuMemUnmap");
  }
  /// The first mapping is given a spare handle and its own again.
  double swap_of(std::size_t bytes, const std::vector<CUmemGenericAllocationHandle>& handles) {
    const CUmemGenericAllocationHandle spare = make(bytes, CU_MEM_LOCATION_TYPE_DEVICE);
    std::vector<double> times;
    for (int i = 0; i < (quick_ ? 4 : 20); ++i) {
      for (const auto handle : {spare, handles.front()}) {
        times.push_back(microseconds([&] {
          unmap_at(0, bytes);
          map_at(0, bytes, handle);
          open(0, bytes);
        }));
      }
    }
    driver_.cuMemRelease(spare);
    return median(times);
  }
  double rate(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
    std::vector<double> times;
    for (int i = 0; i < (quick_ ? 3 : 8); ++i) {
      times.push_back(microseconds([&] {
        driver_.check(driver_.cuMemcpyDtoDAsync(to, from, bytes, stream), "cuMemcpyDtoDAsync");
        driver_.check(driver_.cuStreamSynchronize(stream), "cuStreamSynchronize");
      }));
    }
    return static_cast<double>(bytes) / median(times) * 1e6;
  }

  BenchDriver driver_;
  bool quick_;
  CUdevice device_ = 0;
  CUdeviceptr base_ = 0;
};

}  // namespace

BenchFigures measure(int gpu, bool quick) {
  Bench bench(gpu, quick);
  BenchFigures figures;
  figures.gpu = bench.name();
  figures.driver = bench.version();
  for (const std::size_t size : {2 * kMiB, 8 * kMiB, 32 * kMiB, 64 * kMiB, 256 * kMiB}) {
    figures.handles.push_back(bench.handles_of(size));
  }
  bench.plain(&figures);
  bench.host(&figures);
  bench.end();
  return figures;
}

}  // namespace kvshim::cli
