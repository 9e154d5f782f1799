// The copying entry points: each family brought to the one form.
#include <cstdint>

#include "tests/simulator/contexts.h"
#include "tests/simulator/copies.h"

namespace kvshim::simulator {
namespace {

CUDA_MEMCPY3D linear(CUmemorytype to, CUmemorytype from, std::size_t bytes) {
  CUDA_MEMCPY3D copy{};
  copy.dstMemoryType = to;
  copy.srcMemoryType = from;
  copy.WidthInBytes = bytes;
  copy.Height = 1;
  copy.Depth = 1;
  copy.srcPitch = bytes;
  copy.dstPitch = bytes;
  return copy;
}

CUDA_MEMCPY3D to_3d(const CUDA_MEMCPY2D& flat) {
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = flat.srcXInBytes;
  copy.srcY = flat.srcY;
  copy.srcMemoryType = flat.srcMemoryType;
  copy.srcHost = flat.srcHost;
  copy.srcDevice = flat.srcDevice;
  copy.srcArray = flat.srcArray;
  copy.srcPitch = flat.srcPitch;
  copy.dstXInBytes = flat.dstXInBytes;
  copy.dstY = flat.dstY;
  copy.dstMemoryType = flat.dstMemoryType;
  copy.dstHost = flat.dstHost;
  copy.dstDevice = flat.dstDevice;
  copy.dstArray = flat.dstArray;
  copy.dstPitch = flat.dstPitch;
  copy.WidthInBytes = flat.WidthInBytes;
  copy.Height = flat.Height;
  copy.Depth = 1;
  return copy;
}

CUDA_MEMCPY3D to_3d(const CUDA_MEMCPY3D_PEER& peer) {
  CUDA_MEMCPY3D copy{};
  copy.srcXInBytes = peer.srcXInBytes;
  copy.srcY = peer.srcY;
  copy.srcZ = peer.srcZ;
  copy.srcMemoryType = peer.srcMemoryType;
  copy.srcHost = peer.srcHost;
  copy.srcDevice = peer.srcDevice;
  copy.srcArray = peer.srcArray;
  copy.srcPitch = peer.srcPitch;
  copy.srcHeight = peer.srcHeight;
  copy.dstXInBytes = peer.dstXInBytes;
  copy.dstY = peer.dstY;
  copy.dstZ = peer.dstZ;
  copy.dstMemoryType = peer.dstMemoryType;
  copy.dstHost = peer.dstHost;
  copy.dstDevice = peer.dstDevice;
  copy.dstArray = peer.dstArray;
  copy.dstPitch = peer.dstPitch;
  copy.dstHeight = peer.dstHeight;
  copy.WidthInBytes = peer.WidthInBytes;
  copy.Height = peer.Height;
  copy.Depth = peer.Depth;
  return copy;
}

CUresult host_to_device(CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream,
                        bool wait) {
  CUDA_MEMCPY3D copy = linear(CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_HOST, bytes);
  copy.dstDevice = to;
  copy.srcHost = from;
  return submit_copy(copy, stream, wait);
}

CUresult device_to_host(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream, bool wait) {
  CUDA_MEMCPY3D copy = linear(CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE, bytes);
  copy.dstHost = to;
  copy.srcDevice = from;
  return submit_copy(copy, stream, wait);
}

CUresult device_to_device(CUmemorytype type, CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                          CUstream stream, bool wait) {
  CUDA_MEMCPY3D copy = linear(type, type, bytes);
  copy.dstDevice = to;
  copy.srcDevice = from;
  return submit_copy(copy, stream, wait);
}

CUresult array_copy(CUarray to, std::size_t to_x, CUarray from, std::size_t from_x, void* to_host,
                    const void* from_host, CUdeviceptr to_device, CUdeviceptr from_device,
                    std::size_t bytes, CUstream stream, bool wait) {
  const auto type = [](CUarray array, const void* host) {
    return array != nullptr ? CU_MEMORYTYPE_ARRAY
                            : (host != nullptr ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
  };
  CUDA_MEMCPY3D copy = linear(type(to, to_host), type(from, from_host), bytes);
  copy.dstArray = to;
  copy.dstHost = to_host;
  copy.dstDevice = to_device;
  copy.dstXInBytes = to_x;
  copy.srcArray = from;
  copy.srcHost = from_host;
  copy.srcDevice = from_device;
  copy.srcXInBytes = from_x;
  return submit_copy(copy, stream, wait);
}

CUresult batch(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes, std::size_t count,
               std::size_t* failed, CUstream stream) {
  if (to == nullptr || from == nullptr || bytes == nullptr || count == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // The default streams are refused by the real call as well.
  if (stream == nullptr || stream == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_HANDLE;
  if (failed != nullptr) *failed = SIZE_MAX;
  for (std::size_t i = 0; i < count; ++i) {
    const CUresult result =
        device_to_device(CU_MEMORYTYPE_UNIFIED, to[i], from[i], bytes[i], stream, false);
    if (result == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return CUDA_SUCCESS;
}

CUresult batch_3d(std::size_t count, CUDA_MEMCPY3D_BATCH_OP* operations, std::size_t* failed,
                  CUstream stream) {
  if (operations == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  if (stream == nullptr || stream == CU_STREAM_LEGACY) return CUDA_ERROR_INVALID_HANDLE;
  if (failed != nullptr) *failed = SIZE_MAX;
  for (std::size_t i = 0; i < count; ++i) {
    const CUDA_MEMCPY3D_BATCH_OP& operation = operations[i];
    // Row lengths and layer heights count elements of one byte here: formats
    // come only with arrays, which the batch does not take.
    CUDA_MEMCPY3D copy =
        linear(CU_MEMORYTYPE_UNIFIED, CU_MEMORYTYPE_UNIFIED, operation.extent.width);
    copy.Height = operation.extent.height;
    copy.Depth = operation.extent.depth;
    CUresult result = CUDA_SUCCESS;
    if (operation.src.type != CU_MEMCPY_OPERAND_TYPE_POINTER ||
        operation.dst.type != CU_MEMCPY_OPERAND_TYPE_POINTER) {
      result = CUDA_ERROR_NOT_SUPPORTED;
    } else {
      copy.srcDevice = operation.src.op.ptr.ptr;
      copy.srcPitch = operation.src.op.ptr.rowLength;
      copy.srcHeight = operation.src.op.ptr.layerHeight;
      copy.dstDevice = operation.dst.op.ptr.ptr;
      copy.dstPitch = operation.dst.op.ptr.rowLength;
      copy.dstHeight = operation.dst.op.ptr.layerHeight;
      result = submit_copy(copy, stream, false);
    }
    if (result == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return host_to_device(to, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes,
                                   CUstream stream) {
  return host_to_device(to, from, bytes, stream, false);
}
CUresult api::cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return device_to_host(to, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return device_to_host(to, from, bytes, stream, false);
}
CUresult api::cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return device_to_device(CU_MEMORYTYPE_DEVICE, to, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                                   CUstream stream) {
  return device_to_device(CU_MEMORYTYPE_DEVICE, to, from, bytes, stream, false);
}
CUresult api::cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return device_to_device(CU_MEMORYTYPE_UNIFIED, to, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  return device_to_device(CU_MEMORYTYPE_UNIFIED, to, from, bytes, stream, false);
}
CUresult api::cuMemcpyPeer(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                           CUcontext from_context, std::size_t bytes) {
  if (context_of(to_context) == nullptr || context_of(from_context) == nullptr) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  return device_to_device(CU_MEMORYTYPE_DEVICE, to, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from,
                                CUcontext from_context, std::size_t bytes, CUstream stream) {
  if (context_of(to_context) == nullptr || context_of(from_context) == nullptr) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  return device_to_device(CU_MEMORYTYPE_DEVICE, to, from, bytes, stream, false);
}

CUresult api::cuMemcpyDtoA_v2(CUarray to, std::size_t x, CUdeviceptr from, std::size_t bytes) {
  return array_copy(to, x, nullptr, 0, nullptr, nullptr, 0, from, bytes, nullptr, true);
}
CUresult api::cuMemcpyAtoD_v2(CUdeviceptr to, CUarray from, std::size_t x, std::size_t bytes) {
  return array_copy(nullptr, 0, from, x, nullptr, nullptr, to, 0, bytes, nullptr, true);
}
CUresult api::cuMemcpyAtoA_v2(CUarray to, std::size_t to_x, CUarray from, std::size_t from_x,
                              std::size_t bytes) {
  return array_copy(to, to_x, from, from_x, nullptr, nullptr, 0, 0, bytes, nullptr, true);
}
CUresult api::cuMemcpyHtoA_v2(CUarray to, std::size_t x, const void* from, std::size_t bytes) {
  return array_copy(to, x, nullptr, 0, nullptr, from, 0, 0, bytes, nullptr, true);
}
CUresult api::cuMemcpyAtoH_v2(void* to, CUarray from, std::size_t x, std::size_t bytes) {
  return array_copy(nullptr, 0, from, x, to, nullptr, 0, 0, bytes, nullptr, true);
}
CUresult api::cuMemcpyHtoAAsync_v2(CUarray to, std::size_t x, const void* from, std::size_t bytes,
                                   CUstream stream) {
  return array_copy(to, x, nullptr, 0, nullptr, from, 0, 0, bytes, stream, false);
}
CUresult api::cuMemcpyAtoHAsync_v2(void* to, CUarray from, std::size_t x, std::size_t bytes,
                                   CUstream stream) {
  return array_copy(nullptr, 0, from, x, to, nullptr, 0, 0, bytes, stream, false);
}

CUresult api::cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(to_3d(*copy), nullptr, true);
}
CUresult api::cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* copy) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(to_3d(*copy), nullptr, true);
}
CUresult api::cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream stream) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(to_3d(*copy), stream, false);
}
CUresult api::cuMemcpy3D_v2(const CUDA_MEMCPY3D* copy) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(*copy, nullptr, true);
}
CUresult api::cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* copy, CUstream stream) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(*copy, stream, false);
}
CUresult api::cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* copy) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(to_3d(*copy), nullptr, true);
}
CUresult api::cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* copy, CUstream stream) {
  return copy == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(to_3d(*copy), stream, false);
}

CUresult api::cuMemcpyBatchAsync(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                                 std::size_t count, CUmemcpyAttributes*, std::size_t*, std::size_t,
                                 std::size_t* failed, CUstream stream) {
  return batch(to, from, bytes, count, failed, stream);
}
CUresult api::cuMemcpyBatchAsync_v2(CUdeviceptr* to, CUdeviceptr* from, std::size_t* bytes,
                                    std::size_t count, CUmemcpyAttributes*, std::size_t*,
                                    std::size_t, CUstream stream) {
  return batch(to, from, bytes, count, nullptr, stream);
}
CUresult api::cuMemcpy3DBatchAsync(std::size_t count, CUDA_MEMCPY3D_BATCH_OP* operations,
                                   std::size_t* failed, unsigned long long, CUstream stream) {
  return batch_3d(count, operations, failed, stream);
}
CUresult api::cuMemcpy3DBatchAsync_v2(std::size_t count, CUDA_MEMCPY3D_BATCH_OP* operations,
                                      unsigned long long, CUstream stream) {
  return batch_3d(count, operations, nullptr, stream);
}

}  // namespace kvshim::simulator
