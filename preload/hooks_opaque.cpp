// Addresses that disappear into opaque data: tensor maps, textures.
//
// A tensor map holds the address in plain sight. By value in a launch it is found
// by the scan of parameters; copied to the device it is found as an address seen
// before, hence remembered here. A texture shows kernels no address at all: what
// lies under it is made resident and stays so as long as the texture lives, and so
// is never swapped under a reader that nobody sees.
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "observe/log.h"
#include "preload/copy_range.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"

namespace kvshim::preload {
namespace {

template <class Call>
CUresult encode(const void* address, Call call) noexcept {
  const auto word = reinterpret_cast<std::uint64_t>(address);
  if (!in_arena(word)) return call();
  return at_boundary([&] {
    const CUresult result = retry_over_holes(call);
    if (result == CUDA_SUCCESS) remember_argument(word);
    return result;
  });
}

/// Pins of living texture objects. Leaked: hooks run until the process has ended.
struct TexturePins {
  std::mutex mutex;
  std::unordered_map<CUtexObject, PinId> pins;
};

TexturePins& texture_pins() {
  static auto* instance = new TexturePins;
  return *instance;
}

/// Linear memory under a texture; nothing for arrays.
ByteRange texture_memory(const CUDA_RESOURCE_DESC* description) {
  if (description == nullptr) return {};
  if (description->resType == CU_RESOURCE_TYPE_LINEAR) {
    return {description->res.linear.devPtr, description->res.linear.sizeInBytes};
  }
  if (description->resType == CU_RESOURCE_TYPE_PITCH2D) {
    const auto& plane = description->res.pitch2D;
    return {plane.devPtr, saturating_multiply(plane.pitchInBytes, plane.height)};
  }
  return {};
}

/// Makes the range resident, for good unless the returned pin is removed.
PinId pin_texture(const ByteRange& range, CUresult* result) {
  const Access access{range.address, range.bytes, true};
  const PinId pinned = pin({&access, 1}, result);
  if (pinned != kNoPin) log::info("a texture lies on a pool: that part of it stays resident");
  return pinned;
}

template <class Call>
CUresult bind_reference(CUdeviceptr address, std::size_t bytes, Call call) noexcept {
  if (!meets_arena(address, bytes)) return call();
  return at_boundary([&] {
    // A reference has no end that could be seen: the pin stays.
    CUresult result = CUDA_SUCCESS;
    pin_texture({address, bytes}, &result);
    return result == CUDA_SUCCESS ? retry_over_holes(call) : result;
  });
}

std::size_t plane_bytes(const CUDA_ARRAY_DESCRIPTOR* description, std::size_t pitch) {
  return description == nullptr ? 0 : saturating_multiply(description->Height, pitch);
}

}  // namespace

CUresult hook_cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                     void* address, const cuuint64_t* dimensions,
                                     const cuuint64_t* strides, const cuuint32_t* box,
                                     const cuuint32_t* element_strides,
                                     CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                     CUtensorMapL2promotion promotion,
                                     CUtensorMapFloatOOBfill fill) noexcept {
  return encode(address, [&] {
    return real().cuTensorMapEncodeTiled(map, type, rank, address, dimensions, strides, box,
                                         element_strides, interleave, swizzle, promotion, fill);
  });
}

CUresult hook_cuTensorMapEncodeIm2col(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                      void* address, const cuuint64_t* dimensions,
                                      const cuuint64_t* strides, const int* lower, const int* upper,
                                      cuuint32_t channels, cuuint32_t pixels,
                                      const cuuint32_t* element_strides,
                                      CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                      CUtensorMapL2promotion promotion,
                                      CUtensorMapFloatOOBfill fill) noexcept {
  return encode(address, [&] {
    return real().cuTensorMapEncodeIm2col(map, type, rank, address, dimensions, strides, lower,
                                          upper, channels, pixels, element_strides, interleave,
                                          swizzle, promotion, fill);
  });
}

CUresult hook_cuTensorMapEncodeIm2colWide(
    CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
    const cuuint64_t* dimensions, const cuuint64_t* strides, int lower_width, int upper_width,
    cuuint32_t channels, cuuint32_t pixels, const cuuint32_t* element_strides,
    CUtensorMapInterleave interleave, CUtensorMapIm2ColWideMode mode, CUtensorMapSwizzle swizzle,
    CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) noexcept {
  return encode(address, [&] {
    return real().cuTensorMapEncodeIm2colWide(
        map, type, rank, address, dimensions, strides, lower_width, upper_width, channels, pixels,
        element_strides, interleave, mode, swizzle, promotion, fill);
  });
}

CUresult hook_cuTensorMapReplaceAddress(CUtensorMap* map, void* address) noexcept {
  return encode(address, [&] { return real().cuTensorMapReplaceAddress(map, address); });
}

CUresult hook_cuTexObjectCreate(CUtexObject* texture, const CUDA_RESOURCE_DESC* resource,
                                const CUDA_TEXTURE_DESC* sampling,
                                const CUDA_RESOURCE_VIEW_DESC* view) noexcept {
  const ByteRange range = texture_memory(resource);
  if (!meets_arena(range.address, range.bytes)) {
    return real().cuTexObjectCreate(texture, resource, sampling, view);
  }
  return at_boundary([&] {
    CUresult result = CUDA_SUCCESS;
    const PinId pinned = pin_texture(range, &result);
    if (result != CUDA_SUCCESS) return result;
    result = retry_over_holes(
        [&] { return real().cuTexObjectCreate(texture, resource, sampling, view); });
    if (pinned == kNoPin) return result;
    if (result != CUDA_SUCCESS) {
      unpin(pinned);
      return result;
    }
    TexturePins& all = texture_pins();
    const std::lock_guard lock(all.mutex);
    all.pins[*texture] = pinned;
    return result;
  });
}

CUresult hook_cuTexObjectDestroy(CUtexObject texture) noexcept {
  return at_boundary([&] {
    TexturePins& all = texture_pins();
    PinId pinned = kNoPin;
    if (gate_detail::arena_bytes != 0) {
      const std::lock_guard lock(all.mutex);
      if (const auto found = all.pins.find(texture); found != all.pins.end()) {
        pinned = found->second;
        all.pins.erase(found);  // before its name can be given to another
      }
    }
    const CUresult result = real().cuTexObjectDestroy(texture);
    if (pinned == kNoPin) return result;
    if (result == CUDA_SUCCESS) {
      unpin(pinned);
    } else {  // it lives on
      const std::lock_guard lock(all.mutex);
      all.pins.emplace(texture, pinned);
    }
    return result;
  });
}

CUresult hook_cuTexRefSetAddress_v2(std::size_t* offset, CUtexref reference, CUdeviceptr address,
                                    std::size_t bytes) noexcept {
  return bind_reference(address, bytes, [&] {
    return real().cuTexRefSetAddress_v2(offset, reference, address, bytes);
  });
}

CUresult hook_cuTexRefSetAddress2D_v2(CUtexref reference, const CUDA_ARRAY_DESCRIPTOR* description,
                                      CUdeviceptr address, std::size_t pitch) noexcept {
  return bind_reference(address, plane_bytes(description, pitch), [&] {
    return real().cuTexRefSetAddress2D_v2(reference, description, address, pitch);
  });
}

CUresult hook_cuTexRefSetAddress2D_v3(CUtexref reference, const CUDA_ARRAY_DESCRIPTOR* description,
                                      CUdeviceptr address, std::size_t pitch) noexcept {
  return bind_reference(address, plane_bytes(description, pitch), [&] {
    return real().cuTexRefSetAddress2D_v3(reference, description, address, pitch);
  });
}

}  // namespace kvshim::preload
