#include "tests/simulator/copies.h"

#include <cstdlib>
#include <cstring>

#include "tests/simulator/address_space.h"
#include "tests/simulator/moving_copy.h"
#include "tests/simulator/streams.h"

namespace kvshim::simulator {
namespace {

enum class Side : std::uint8_t { kPageable, kDevice };  // kDevice: anything the GPU reaches

// Between mappings of which one's memory lies in the host: only parking and coming back
// do that (or an engine, from or into a page that is parked).
bool moves(const CUDA_MEMCPY3D& given, std::uint64_t to, std::uint64_t from) {
  if (given.srcMemoryType != CU_MEMORYTYPE_DEVICE || given.dstMemoryType != CU_MEMORYTYPE_DEVICE ||
      given.Height != 1 || given.Depth != 1 || (to | from | given.WidthInBytes) % kPageBytes != 0) {
    return false;
  }
  const std::optional<Range> target = find_range(to);
  const std::optional<Range> source = find_range(from);
  return target && target->kind == RangeKind::kMapping && source &&
         source->kind == RangeKind::kMapping && target->on_host != source->on_host;
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
  const bool covered = is_covered_at_a_look(end->base, extent, kind);
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

Others unless_switched_off(Others others) {
  static const bool hold_nothing = std::getenv("KVSHIM_SIM_COPIES_HOLD_NOTHING") != nullptr;
  return hold_nothing ? Others::kGoOn : others;
}

CopyOperation without_pitch(const CopyOperation& copy) {
  CopyOperation packed = copy;
  packed.staged = std::make_shared<std::vector<std::byte>>(total_bytes(copy));
  return packed;
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
  copy->moves = moves(given, to.base, from.base);
  return CUDA_SUCCESS;
}

void perform(const CopyOperation& copy) {
  if (copy.moves) return copy_beside_work(copy.destination, copy.source, copy.width);
  for (std::size_t z = 0; z < copy.depth; ++z) {
    for (std::size_t y = 0; y < copy.height; ++y) {
      std::memmove(copy.destination + (z * copy.destination_height + y) * copy.destination_pitch,
                   copy.source + (z * copy.source_height + y) * copy.source_pitch, copy.width);
    }
  }
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
    const CUresult result =
        submit_and_wait(stream, std::move(to_staging),
                        unless_switched_off(wait ? Others::kHeldUp : Others::kEventsHeldUp));
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
  return wait && !on_device
             ? submit_and_wait(stream, std::move(copy), unless_switched_off(Others::kHeldUp))
             : submit(stream, std::move(copy));
}

}  // namespace kvshim::simulator
