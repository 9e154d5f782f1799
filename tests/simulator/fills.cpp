// cuMemsetD8/16/32 and their two-dimensional and asynchronous forms.
#include <algorithm>
#include <cstring>

#include "tests/simulator/address_space.h"
#include "tests/simulator/copies.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

CUresult submit_fill(CUdeviceptr address, std::size_t pitch, unsigned value, unsigned element,
                     std::size_t width, std::size_t height, CUstream stream) {
  if (width == 0 || height == 0) return CUDA_SUCCESS;
  FillOperation fill;
  fill.params.dst = address;
  fill.params.pitch = pitch;
  fill.params.value = value;
  fill.params.elementSize = element;
  fill.params.width = width;
  fill.params.height = height;
  if (const CUresult bad = check_fill_shape(fill.params); bad != CUDA_SUCCESS) return bad;
  // A captured fill is looked at when its graph is instantiated (measured).
  bool capturing = false;
  {
    const StreamLock lock(stream_mutex());
    const auto found = find_stream(lock, stream);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    capturing = found->capture != nullptr;
  }
  if (!capturing) {
    if (const CUresult bad = check_fill(fill.params); bad != CUDA_SUCCESS) return bad;
  }
  // Also the synchronous forms return before the fill is done (measured).
  return submit(stream, fill);
}

}  // namespace

CUresult check_fill_shape(const CUDA_MEMSET_NODE_PARAMS& fill) {
  const std::size_t row = fill.width * fill.elementSize;
  if (fill.elementSize != 1 && fill.elementSize != 2 && fill.elementSize != 4) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (fill.dst % fill.elementSize != 0) return CUDA_ERROR_INVALID_VALUE;
  if (fill.height > 1 && fill.pitch < row) return CUDA_ERROR_INVALID_VALUE;
  return CUDA_SUCCESS;
}

CUresult check_fill(const CUDA_MEMSET_NODE_PARAMS& fill) {
  if (const CUresult bad = check_fill_shape(fill); bad != CUDA_SUCCESS) return bad;
  const std::size_t extent = (fill.height - 1) * fill.pitch + fill.width * fill.elementSize;
  return is_covered_at_a_look(fill.dst, extent, AccessKind::kWrite) ? CUDA_SUCCESS
                                                                    : CUDA_ERROR_INVALID_VALUE;
}

void perform(const CUDA_MEMSET_NODE_PARAMS& fill) {
  for (std::size_t y = 0; y < fill.height; ++y) {
    void* row = reinterpret_cast<void*>(fill.dst + y * fill.pitch);  // NOLINT
    switch (fill.elementSize) {
      case 1:
        std::memset(row, static_cast<int>(fill.value), fill.width);
        break;
      case 2:
        std::fill_n(static_cast<std::uint16_t*>(row), fill.width,
                    static_cast<std::uint16_t>(fill.value));
        break;
      default:
        std::fill_n(static_cast<std::uint32_t*>(row), fill.width, fill.value);
    }
  }
}

CUresult api::cuMemsetD8_v2(CUdeviceptr address, unsigned char value, std::size_t count) {
  return submit_fill(address, 0, value, 1, count, 1, nullptr);
}
CUresult api::cuMemsetD16_v2(CUdeviceptr address, unsigned short value, std::size_t count) {
  return submit_fill(address, 0, value, 2, count, 1, nullptr);
}
CUresult api::cuMemsetD32_v2(CUdeviceptr address, unsigned value, std::size_t count) {
  return submit_fill(address, 0, value, 4, count, 1, nullptr);
}
CUresult api::cuMemsetD2D8_v2(CUdeviceptr address, std::size_t pitch, unsigned char value,
                              std::size_t width, std::size_t height) {
  return submit_fill(address, pitch, value, 1, width, height, nullptr);
}
CUresult api::cuMemsetD2D16_v2(CUdeviceptr address, std::size_t pitch, unsigned short value,
                               std::size_t width, std::size_t height) {
  return submit_fill(address, pitch, value, 2, width, height, nullptr);
}
CUresult api::cuMemsetD2D32_v2(CUdeviceptr address, std::size_t pitch, unsigned value,
                               std::size_t width, std::size_t height) {
  return submit_fill(address, pitch, value, 4, width, height, nullptr);
}
CUresult api::cuMemsetD8Async(CUdeviceptr address, unsigned char value, std::size_t count,
                              CUstream stream) {
  return submit_fill(address, 0, value, 1, count, 1, stream);
}
CUresult api::cuMemsetD16Async(CUdeviceptr address, unsigned short value, std::size_t count,
                               CUstream stream) {
  return submit_fill(address, 0, value, 2, count, 1, stream);
}
CUresult api::cuMemsetD32Async(CUdeviceptr address, unsigned value, std::size_t count,
                               CUstream stream) {
  return submit_fill(address, 0, value, 4, count, 1, stream);
}
CUresult api::cuMemsetD2D8Async(CUdeviceptr address, std::size_t pitch, unsigned char value,
                                std::size_t width, std::size_t height, CUstream stream) {
  return submit_fill(address, pitch, value, 1, width, height, stream);
}
CUresult api::cuMemsetD2D16Async(CUdeviceptr address, std::size_t pitch, unsigned short value,
                                 std::size_t width, std::size_t height, CUstream stream) {
  return submit_fill(address, pitch, value, 2, width, height, stream);
}
CUresult api::cuMemsetD2D32Async(CUdeviceptr address, std::size_t pitch, unsigned value,
                                 std::size_t width, std::size_t height, CUstream stream) {
  return submit_fill(address, pitch, value, 4, width, height, stream);
}

}  // namespace kvshim::simulator
