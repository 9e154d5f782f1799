#include "bench/device_work.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/engine/kernel_names.h"

extern "C" const char kvshim_ptx_kernels[];

namespace kvshim::bench {
namespace {

constexpr int kHeads = 8, kHeadSize = 64;  // of two bytes: 1 KiB a slot
constexpr std::int64_t kSlotElements = kHeads * kHeadSize;
constexpr int kBlockSlots = 16;

}  // namespace

void check(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  const char* name = "?";
  cuGetErrorName(result, &name);
  std::fprintf(stderr, "%s: %s\n", call, name);
  std::exit(1);
}

Session::Session() {
  KVSHIM_BENCH_CHECK(cuInit(0));
  CUdevice device = 0;
  KVSHIM_BENCH_CHECK(cuDeviceGet(&device, 0));
  KVSHIM_BENCH_CHECK(cuDevicePrimaryCtxRetain(&context_, device));
  KVSHIM_BENCH_CHECK(cuCtxSetCurrent(context_));
  KVSHIM_BENCH_CHECK(cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING));
  char name[128] = "";
  KVSHIM_BENCH_CHECK(cuDeviceGetName(name, sizeof name, device));
  gpu_ = name;
  simulator_ = gpu_ == "kvshim simulator";
  std::size_t free = 0;
  KVSHIM_BENCH_CHECK(cuMemGetInfo(&free, &total_));
  CUmodule module = nullptr;
  KVSHIM_BENCH_CHECK(cuModuleLoadData(&module, kvshim_ptx_kernels));
  const auto writer = static_cast<unsigned>(engine::KernelName::kWriter);
  KVSHIM_BENCH_CHECK(cuModuleGetFunction(&writer_, module, engine::kKernelNames[writer]));
  KVSHIM_BENCH_CHECK(cuMemAlloc(&slots_, 4096));
  KVSHIM_BENCH_CHECK(cuMemAlloc(&rows_, 4096));
  KVSHIM_BENCH_CHECK(cuMemsetD8(rows_, 0x5a, 4096));
}

std::vector<CUdeviceptr> Session::allocate(std::size_t count, std::size_t bytes) {
  std::vector<CUdeviceptr> pools(count);
  for (CUdeviceptr& pool : pools) KVSHIM_BENCH_CHECK(cuMemAlloc(&pool, bytes));
  return pools;
}

void Session::write_token(CUdeviceptr pool, std::size_t pool_bytes, std::size_t offset) {
  const std::int64_t slot = static_cast<std::int64_t>(offset / 2) / kSlotElements;
  KVSHIM_BENCH_CHECK(cuMemcpyHtoDAsync(slots_, &slot, sizeof slot, stream_));
  write_there_again(pool, pool_bytes);
}

void Session::write_there_again(CUdeviceptr pool, std::size_t pool_bytes) {
  CUdeviceptr key = rows_, value = rows_ + 2048, none = 0;
  CUdeviceptr key_cache = pool, value_cache = pool + pool_bytes / 2;
  std::int64_t block_stride = kSlotElements * kBlockSlots, page_stride = kSlotElements;
  std::int64_t head_stride = kHeadSize, row_stride = kSlotElements;
  int heads = kHeads, head_size = kHeadSize, block_size = kBlockSlots, scale_stride = 0;
  void* parameters[] = {&key,        &value,        &key_cache,   &value_cache,
                        &slots_,     &block_stride, &page_stride, &head_stride,
                        &row_stride, &row_stride,   &heads,       &head_size,
                        &block_size, &none,         &none,        &scale_stride};
  KVSHIM_BENCH_CHECK(cuLaunchKernel(writer_, 1, 1, 1, 256, 1, 1, 0, stream_, parameters, nullptr));
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(values.size())))];
}

double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

}  // namespace kvshim::bench
