#include "preload/payload.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "preload/real_driver.h"

namespace kvshim::preload {
namespace {

/// As the driver knows it; nothing for memory of the program's own.
std::optional<CUmemorytype> type_of(std::uint64_t address) noexcept {
  CUmemorytype type = CU_MEMORYTYPE_HOST;
  if (real().cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) !=
      CUDA_SUCCESS) {
    return std::nullopt;
  }
  return type;
}

// Without touching it: the kernel copies the new mask before it finds that there is no
// such `how`. (As Abseil's AddressIsReadable does, base/internal of it.)
bool is_readable(std::uint64_t address) noexcept {
  constexpr std::uint64_t kMask = 8;  // bytes that it copies
  const int before = errno;
  const long result = syscall(SYS_rt_sigprocmask, ~0, address & ~(kMask - 1), nullptr, kMask);
  const bool readable = result == 0 || errno != EFAULT;
  errno = before;
  return readable;
}

// Host memory of the driver's is mapped in pieces of at least 2 MiB, each for the GPUs
// and the CPU or for the GPUs alone.
void scan_readable(StreamRef stream, const ByteRange& range) {
  constexpr std::uint64_t kPiece = std::uint64_t{2} << 20;
  const std::uint64_t end = range.address + range.bytes;
  std::uint64_t begin = range.address;  // of what was found readable
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t next = std::min(end, (at / kPiece + 1) * kPiece);
    if (!is_readable(at)) {
      if (begin < at) scan_payload(stream, reinterpret_cast<const void*>(begin), at - begin);
      begin = next;
    }
    at = next;
  }
  if (begin < end) scan_payload(stream, reinterpret_cast<const void*>(begin), end - begin);
}

}  // namespace

bool is_device_memory(std::uint64_t address) noexcept {
  return in_arena(address) || type_of(address) == CU_MEMORYTYPE_DEVICE;
}

void search_payload(StreamRef stream, const CopySide& source, const CopyExtent& extent) {
  if (!pools_exist() || source.base == 0) return;
  if (in_arena(source.base)) return;
  const std::optional<CUmemorytype> type = type_of(source.base);
  if (type == CU_MEMORYTYPE_DEVICE) return;
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
    if (type) return scan_readable(stream, range);
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
