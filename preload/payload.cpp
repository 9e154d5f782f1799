#include "preload/payload.h"

#include "preload/real_driver.h"

namespace kvshim::preload {

bool is_device_memory(std::uint64_t address) noexcept {
  if (in_arena(address)) return true;
  CUmemorytype type = CU_MEMORYTYPE_HOST;
  return real().cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) ==
             CUDA_SUCCESS &&
         type == CU_MEMORYTYPE_DEVICE;
}

void search_payload(StreamRef stream, const CopySide& source, const CopyExtent& extent) {
  if (!pools_exist() || source.base == 0) return;
  if (is_device_memory(source.base)) return;
  const std::size_t slice_rows = source.slice_rows != 0 ? source.slice_rows : extent.height;
  const bool rows_adjoin = extent.height == 1 || source.pitch == 0 || source.pitch == extent.width;
  const bool slices_adjoin = extent.depth == 1 || (rows_adjoin && slice_rows == extent.height);
  const auto search = [&](std::size_t row, std::size_t slice, std::size_t rows,
                          std::size_t slices) {
    CopySide from = source;
    from.y += row;
    from.z += slice;
    const ByteRange range = touched(from, {extent.width, rows, slices});
    if (range.bytes == 0 || range.bytes == SIZE_MAX) return;
    scan_payload(stream, reinterpret_cast<const void*>(range.address), range.bytes);
  };
  if (rows_adjoin && slices_adjoin) return search(0, 0, extent.height, extent.depth);
  for (std::size_t slice = 0; slice < extent.depth; ++slice) {
    if (rows_adjoin) {
      search(0, slice, extent.height, 1);
      continue;
    }
    for (std::size_t row = 0; row < extent.height; ++row) search(row, slice, 1, 1);
  }
}

}  // namespace kvshim::preload
