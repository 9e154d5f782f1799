#include "tests/simulator/copies.h"

#include <cstring>

#include "tests/simulator/address_space.h"
#include "tests/simulator/parking_copy.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

enum class Side : std::uint8_t { kPageable, kDevice };  // kDevice: anything the GPU reaches

// From one mapping into another whose memory lies in the host: only parking does
// that (or an engine, into a page that is parked).
bool parks(const CUDA_MEMCPY3D& given, std::uint64_t to, std::uint64_t from) {
  if (given.srcMemoryType != CU_MEMORYTYPE_DEVICE || given.dstMemoryType != CU_MEMORYTYPE_DEVICE ||
      given.Height != 1 || given.Depth != 1 || (to | from | given.WidthInBytes) % kPageBytes != 0) {
    return false;
  }
  const std::optional<Range> target = find_range(to);
  const std::optional<Range> source = find_range(from);
  return target && target->kind == RangeKind::kMapping && target->on_host && source &&
         source->kind == RangeKind::kMapping && !source->on_host;
}

struct End {
  std::uint64_t base = 0;
  std::size_t pitch = 0, height = 0;
  Side side = Side::kDevice;
};

CUresult describe_end(CUmemorytype type, const void* host, CUdeviceptr device, CUarray array,
                      std::size_t pitch, std::size_t height, std::size_t x, std::size_t y,
                      std::size_t z, const CUDA_MEMCPY3D& given, AccessKind kind, End* end) {
  bool must_be_device = false;
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      end->base = reinterpret_cast<std::uint64_t>(host);
      break;
    case CU_MEMORYTYPE_DEVICE:
      end->base = device;
      must_be_device = true;
      break;
    case CU_MEMORYTYPE_UNIFIED:
      end->base = device;
      break;
    case CU_MEMORYTYPE_ARRAY: {
      ArrayMemory* memory = find_array(array);
      if (memory == nullptr) return CUDA_ERROR_INVALID_VALUE;
      end->pitch = memory->row_bytes;
      end->height = memory->rows;
      const std::size_t first = (z * end->height + y) * end->pitch + x;
      const std::size_t last =
          ((z + given.Depth - 1) * end->height + y + given.Height - 1) * end->pitch + x +
          given.WidthInBytes;
      if (last > memory->bytes.size()) return CUDA_ERROR_INVALID_VALUE;
      end->base = reinterpret_cast<std::uint64_t>(memory->bytes.data()) + first;
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  if (pitch == 0) pitch = given.WidthInBytes;
  if (height == 0) height = given.Height;
  if (given.Height > 1 && pitch < given.WidthInBytes) return CUDA_ERROR_INVALID_VALUE;
  if (given.Depth > 1 && height < given.Height) return CUDA_ERROR_INVALID_VALUE;
  end->pitch = pitch;
  end->height = height;
  end->base += (z * height + y) * pitch + x;
  const std::size_t extent =
      ((given.Depth - 1) * height + given.Height - 1) * pitch + given.WidthInBytes;
  // The driver looks at the mapping when it is called, not when it copies: a
  // destination that is read-only now is refused (docs/results/driver_semantics.md).
  const bool covered = is_covered(end->base, extent, kind);
  if (must_be_device && !covered) return CUDA_ERROR_INVALID_VALUE;
  if (!covered && is_covered(end->base, extent)) return CUDA_ERROR_INVALID_VALUE;
  // And a pitched one in more than one mapping.
  const std::optional<Range> first = covered ? find_range(end->base) : std::nullopt;
  if (kind == AccessKind::kWrite && given.Height * given.Depth > 1 && first &&
      first->kind == RangeKind::kMapping && end->base + extent > first->end()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // The unified call takes a hole for host memory (measured), so that it faults.
  end->side = covered ? Side::kDevice : Side::kPageable;
  return CUDA_SUCCESS;
}

std::size_t total_bytes(const CopyOperation& copy) { return copy.width * copy.height * copy.depth; }

CopyOperation without_pitch(const CopyOperation& copy) {
  CopyOperation packed = copy;
  packed.staged = std::make_shared<std::vector<std::byte>>(total_bytes(copy));
  return packed;
}

CUresult submit_copy(const CUDA_MEMCPY3D& given, CUstream stream, bool wait) {
  if (given.WidthInBytes == 0 || given.Height == 0 || given.Depth == 0) return CUDA_SUCCESS;
  CopyOperation copy;
  if (const CUresult bad = describe_copy(given, &copy); bad != CUDA_SUCCESS) return bad;
  bool capturing = false;
  {
    const StreamLock lock(stream_mutex());
    const auto found = find_stream(lock, stream);
    if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    capturing = found->capture != nullptr;
  }
  if (capturing) {
    if (wait) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    return submit(stream, std::move(copy));
  }
  const bool from_pageable = given.srcMemoryType != CU_MEMORYTYPE_ARRAY &&
                             !is_known(reinterpret_cast<std::uint64_t>(copy.source));
  const bool to_pageable = given.dstMemoryType != CU_MEMORYTYPE_ARRAY &&
                           !is_known(reinterpret_cast<std::uint64_t>(copy.destination));
  if (to_pageable) {
    // Back when the bytes have arrived; written by the calling thread.
    CopyOperation from_staging = without_pitch(copy);
    CopyOperation to_staging = copy;
    to_staging.staged = nullptr;
    from_staging.source = from_staging.staged->data();
    from_staging.source_pitch = copy.width;
    from_staging.source_height = copy.height;
    to_staging.destination = from_staging.staged->data();
    to_staging.destination_pitch = copy.width;
    to_staging.destination_height = copy.height;
    const CUresult result = submit_and_wait(stream, std::move(to_staging));
    if (result == CUDA_SUCCESS) perform(from_staging);
    return result;
  }
  if (from_pageable) {
    // Taken at the call: the application may change its memory afterwards.
    CopyOperation to_staging = copy;
    copy = without_pitch(copy);
    to_staging.destination = copy.staged->data();
    to_staging.destination_pitch = copy.width;
    to_staging.destination_height = copy.height;
    perform(to_staging);
    copy.source = copy.staged->data();
    copy.source_pitch = copy.width;
    copy.source_height = copy.height;
  }
  // Between two places on the device the synchronous calls return at once.
  const bool on_device = given.srcMemoryType != CU_MEMORYTYPE_HOST &&
                         given.dstMemoryType != CU_MEMORYTYPE_HOST && !from_pageable;
  return wait && !on_device ? submit_and_wait(stream, std::move(copy))
                            : submit(stream, std::move(copy));
}

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

CUresult describe_copy(const CUDA_MEMCPY3D& given, CopyOperation* copy) {
  End from, to;
  if (const CUresult bad =
          describe_end(given.srcMemoryType, given.srcHost, given.srcDevice, given.srcArray,
                       given.srcPitch, given.srcHeight, given.srcXInBytes, given.srcY, given.srcZ,
                       given, AccessKind::kRead, &from);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  if (const CUresult bad =
          describe_end(given.dstMemoryType, given.dstHost, given.dstDevice, given.dstArray,
                       given.dstPitch, given.dstHeight, given.dstXInBytes, given.dstY, given.dstZ,
                       given, AccessKind::kWrite, &to);
      bad != CUDA_SUCCESS) {
    return bad;
  }
  copy->as_given = given;
  copy->source = reinterpret_cast<const std::byte*>(from.base);  // NOLINT
  copy->destination = reinterpret_cast<std::byte*>(to.base);     // NOLINT
  copy->source_pitch = from.pitch;
  copy->source_height = from.height;
  copy->destination_pitch = to.pitch;
  copy->destination_height = to.height;
  copy->width = given.WidthInBytes;
  copy->height = given.Height;
  copy->depth = given.Depth;
  copy->parks = parks(given, to.base, from.base);
  return CUDA_SUCCESS;
}

void perform(const CopyOperation& copy) {
  if (copy.parks) return copy_while_parking(copy.destination, copy.source, copy.width);
  for (std::size_t z = 0; z < copy.depth; ++z) {
    for (std::size_t y = 0; y < copy.height; ++y) {
      std::memmove(copy.destination + (z * copy.destination_height + y) * copy.destination_pitch,
                   copy.source + (z * copy.source_height + y) * copy.source_pitch, copy.width);
    }
  }
}

// The entry points, by family.

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
