// Fills. A fill with zeros of memory that is absent, and so logically zero, is
// dropped by the gate; engines zero their whole pool at start.
#include <cstddef>
#include <cstdint>

#include "preload/copy_range.h"
#include "preload/gate.h"
#include "preload/hook_boundary.h"
#include "preload/hooks.h"
#include "preload/sync_memops.h"

namespace kvshim::preload {
namespace {

template <class Call>
CUresult fill(StreamRef stream, bool synchronous, CUdeviceptr to, std::size_t count,
              std::size_t element, bool zero, Call call) noexcept {
  const std::size_t bytes = saturating_multiply(count, element);
  if (!meets_arena(to, bytes)) return call();
  return at_boundary([&] {
    const CUresult result =
        run_fill(stream, to, bytes, zero, [&] { return retry_over_holes(call); });
    const Access access{to, bytes, true};
    return synchronous ? finish_sync_memop(stream, {&access, 1}, result) : result;
  });
}

/// Rows of `width` elements, `pitch` bytes apart. Only rows without gaps are one
/// range of zeros; with gaps the range holds bytes that the fill must not change.
template <class Call>
CUresult fill_rows(StreamRef stream, bool synchronous, CUdeviceptr to, std::size_t pitch,
                   std::size_t width, std::size_t height, std::size_t element, bool zero,
                   Call call) noexcept {
  const std::size_t row = saturating_multiply(width, element);
  const bool adjoining = height <= 1 || pitch == row;
  const ByteRange range = touched({.base = to, .pitch = pitch}, {row, height, 1});
  if (!meets_arena(range.address, range.bytes)) return call();
  if (adjoining) return fill(stream, synchronous, to, range.bytes, 1, zero, call);
  return at_boundary([&] {
    const Access access{range.address, range.bytes, true};
    const CUresult result =
        run_work(stream, {&access, 1}, nullptr, [&] { return retry_over_holes(call); });
    return synchronous ? finish_sync_memop(stream, {&access, 1}, result) : result;
  });
}

}  // namespace

#define KVSHIM_FILL_HOOKS(width, Value, bytes)                                  \
  KVSHIM_SYNC_FILL(cuMemsetD##width##_v2, Value, bytes, kLegacy)                \
  KVSHIM_SYNC_FILL(cuMemsetD##width##_v2_ptds, Value, bytes, kPerThread)        \
  KVSHIM_ASYNC_FILL(cuMemsetD##width##Async, Value, bytes, kLegacy)             \
  KVSHIM_ASYNC_FILL(cuMemsetD##width##Async_ptsz, Value, bytes, kPerThread)     \
  KVSHIM_SYNC_FILL_ROWS(cuMemsetD2D##width##_v2, Value, bytes, kLegacy)         \
  KVSHIM_SYNC_FILL_ROWS(cuMemsetD2D##width##_v2_ptds, Value, bytes, kPerThread) \
  KVSHIM_ASYNC_FILL_ROWS(cuMemsetD2D##width##Async, Value, bytes, kLegacy)      \
  KVSHIM_ASYNC_FILL_ROWS(cuMemsetD2D##width##Async_ptsz, Value, bytes, kPerThread)

#define KVSHIM_SYNC_FILL(name, Value, bytes, flavor)                                 \
  CUresult hook_##name(CUdeviceptr to, Value value, std::size_t count) noexcept {    \
    return fill({nullptr, StreamFlavor::flavor}, true, to, count, bytes, value == 0, \
                [&] { return real().name(to, value, count); });                      \
  }
#define KVSHIM_ASYNC_FILL(name, Value, bytes, flavor)                                         \
  CUresult hook_##name(CUdeviceptr to, Value value, std::size_t count, CUstream s) noexcept { \
    return fill({s, StreamFlavor::flavor}, false, to, count, bytes, value == 0,               \
                [&] { return real().name(to, value, count, s); });                            \
  }
#define KVSHIM_SYNC_FILL_ROWS(name, Value, bytes, flavor)                                       \
  CUresult hook_##name(CUdeviceptr to, std::size_t pitch, Value value, std::size_t width,       \
                       std::size_t height) noexcept {                                           \
    return fill_rows({nullptr, StreamFlavor::flavor}, true, to, pitch, width, height, bytes,    \
                     value == 0, [&] { return real().name(to, pitch, value, width, height); }); \
  }
#define KVSHIM_ASYNC_FILL_ROWS(name, Value, bytes, flavor)                                         \
  CUresult hook_##name(CUdeviceptr to, std::size_t pitch, Value value, std::size_t width,          \
                       std::size_t height, CUstream s) noexcept {                                  \
    return fill_rows({s, StreamFlavor::flavor}, false, to, pitch, width, height, bytes,            \
                     value == 0, [&] { return real().name(to, pitch, value, width, height, s); }); \
  }

KVSHIM_FILL_HOOKS(8, unsigned char, 1)
KVSHIM_FILL_HOOKS(16, unsigned short, 2)
KVSHIM_FILL_HOOKS(32, unsigned int, 4)

}  // namespace kvshim::preload
