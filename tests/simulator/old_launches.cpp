// The launch interface before CUDA 4: parameters are set on the function.
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "tests/simulator/launches.h"
#include "tests/simulator/modules.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

struct Settings {
  unsigned block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  std::vector<std::byte> params;
};

struct AllSettings {
  std::mutex mutex;
  std::map<CUfunction, Settings> of;
};

AllSettings& settings() {
  static AllSettings* const instance = new AllSettings;
  return *instance;
}

template <class Change>
CUresult change(CUfunction function, Change&& apply) {
  if (find_function(function) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  AllSettings& all = settings();
  const std::lock_guard lock(all.mutex);
  std::forward<Change>(apply)(all.of[function]);
  return CUDA_SUCCESS;
}

CUresult set_param(CUfunction function, int offset, const void* bytes, std::size_t count) {
  if (offset < 0 || bytes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return change(function, [&](Settings& of) {
    const auto begin = static_cast<std::size_t>(offset);
    if (of.params.size() < begin + count) of.params.resize(begin + count);
    std::memcpy(of.params.data() + begin, bytes, count);
  });
}

CUresult launch(CUfunction function, int width, int height, CUstream stream) {
  if (width <= 0 || height <= 0) return CUDA_ERROR_INVALID_VALUE;
  Settings now;
  if (const CUresult bad = change(function, [&](Settings& of) { now = of; }); bad != CUDA_SUCCESS) {
    return bad;
  }
  const unsigned grid[] = {static_cast<unsigned>(width), static_cast<unsigned>(height), 1};
  std::size_t bytes = now.params.size();
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, now.params.data(), CU_LAUNCH_PARAM_BUFFER_SIZE,
                   &bytes, CU_LAUNCH_PARAM_END};
  KernelOperation operation;
  if (const CUresult bad = describe_launch(function, grid, now.block, now.shared_bytes, nullptr,
                                           bytes == 0 ? nullptr : extra, &operation);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  return submit(stream, std::move(operation));
}

}  // namespace

CUresult api::cuFuncSetBlockShape(CUfunction function, int x, int y, int z) {
  if (x <= 0 || y <= 0 || z <= 0) return CUDA_ERROR_INVALID_VALUE;
  return change(function, [&](Settings& of) {
    of.block[0] = static_cast<unsigned>(x);
    of.block[1] = static_cast<unsigned>(y);
    of.block[2] = static_cast<unsigned>(z);
  });
}
CUresult api::cuFuncSetSharedSize(CUfunction function, unsigned bytes) {
  return change(function, [&](Settings& of) { of.shared_bytes = bytes; });
}
CUresult api::cuParamSetSize(CUfunction function, unsigned bytes) {
  return change(function, [&](Settings& of) { of.params.resize(bytes); });
}
CUresult api::cuParamSeti(CUfunction function, int offset, unsigned value) {
  return set_param(function, offset, &value, sizeof value);
}
CUresult api::cuParamSetf(CUfunction function, int offset, float value) {
  return set_param(function, offset, &value, sizeof value);
}
CUresult api::cuParamSetv(CUfunction function, int offset, void* bytes, unsigned count) {
  return set_param(function, offset, bytes, count);
}
CUresult api::cuLaunch(CUfunction function) { return launch(function, 1, 1, nullptr); }
CUresult api::cuLaunchGrid(CUfunction function, int width, int height) {
  return launch(function, width, height, nullptr);
}
CUresult api::cuLaunchGridAsync(CUfunction function, int width, int height, CUstream stream) {
  return launch(function, width, height, stream);
}

}  // namespace kvshim::simulator
