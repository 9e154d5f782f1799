// Which bytes a pitched copy touches, as one range from the first to the last
// byte (the gaps between rows included). Pure arithmetic; sizes that overflow
// saturate, so that a nonsensical request reaches the driver and gets its error.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

struct ByteRange {
  std::uint64_t address = 0;
  std::size_t bytes = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// Bytes of a row, rows of a slice, slices. A plane has depth 1.
struct CopyExtent {
  std::size_t width = 0;
  std::size_t height = 1;
  std::size_t depth = 1;
};

/// One side of a pitched copy. `pitch`: bytes from row to row (0: rows follow
/// each other); `slice_rows`: rows from slice to slice (0: the extent's height).
struct CopySide {
  std::uint64_t base = 0;
  std::size_t pitch = 0;
  std::size_t slice_rows = 0;
  std::size_t x = 0;  // bytes
  std::size_t y = 0;  // rows
  std::size_t z = 0;  // slices
};

constexpr std::size_t saturating_multiply(std::size_t a, std::size_t b) noexcept {
  std::size_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

constexpr std::size_t saturating_add(std::size_t a, std::size_t b) noexcept {
  std::size_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

/// Empty (0 bytes) when the extent is.
constexpr ByteRange touched(const CopySide& side, const CopyExtent& extent) noexcept {
  if (extent.width == 0 || extent.height == 0 || extent.depth == 0) return {side.base, 0};
  const std::size_t pitch = side.pitch != 0 ? side.pitch : saturating_add(side.x, extent.width);
  const std::size_t slice_rows = side.slice_rows != 0 ? side.slice_rows : extent.height;
  const auto offset_of = [&](std::size_t row, std::size_t slice) {
    return saturating_multiply(saturating_add(saturating_multiply(slice, slice_rows), row), pitch);
  };
  const std::size_t first = saturating_add(offset_of(side.y, side.z), side.x);
  const std::size_t span =
      saturating_add(offset_of(extent.height - 1, extent.depth - 1), extent.width);
  std::uint64_t address = 0;
  if (__builtin_add_overflow(side.base, first, &address)) return {UINT64_MAX, 0};
  return {address, span};
}

}  // namespace kvshim::preload
