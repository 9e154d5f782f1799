#include "preload/row_copy.h"

#include "preload/payload.h"
#include "preload/real_driver.h"

namespace kvshim::preload {

CUresult copy_rows(StreamRef stream, const CopySide& to, const CopySide& from,
                   const CopyExtent& extent) {
  const bool to_device = in_arena(to.base) || is_device_memory(to.base);
  const bool from_device = in_arena(from.base) || is_device_memory(from.base);
  const CUstream handle = stream.explicit_handle();
  const auto row_of = [&](const CopySide& side, std::size_t row, std::size_t slice) {
    const std::size_t slice_rows = side.slice_rows != 0 ? side.slice_rows : extent.height;
    const std::size_t pitch = side.pitch != 0 ? side.pitch : side.x + extent.width;
    return side.base + ((side.z + slice) * slice_rows + side.y + row) * pitch + side.x;
  };
  for (std::size_t slice = 0; slice < extent.depth; ++slice) {
    for (std::size_t row = 0; row < extent.height; ++row) {
      const std::uint64_t d = row_of(to, row, slice), o = row_of(from, row, slice);
      const CUresult result = retry_over_holes([&] {
        if (!from_device) {
          return real().cuMemcpyHtoDAsync_v2(d, reinterpret_cast<const void*>(o), extent.width,
                                             handle);
        }
        if (!to_device) {
          return real().cuMemcpyDtoHAsync_v2(reinterpret_cast<void*>(d), o, extent.width, handle);
        }
        return real().cuMemcpyDtoDAsync_v2(d, o, extent.width, handle);
      });
      if (result != CUDA_SUCCESS) return result;
    }
  }
  return CUDA_SUCCESS;
}

bool pitches_are_sane(const CopySide& side, const CopyExtent& extent) {
  return (side.pitch == 0 || side.pitch >= saturating_add(side.x, extent.width)) &&
         (side.slice_rows == 0 || extent.depth <= 1 ||
          side.slice_rows >= saturating_add(side.y, extent.height));
}

}  // namespace kvshim::preload
