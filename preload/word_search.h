// Finds addresses of a range among the words of a buffer: what every copy to the
// device pays while there are pools.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvshim::preload {

/// The index, at least `from`, of the first of `count` 8-byte words that lies in
/// [base, base + size); `count` when there is none. The words need no alignment.
/// size > 0, and the range doesn't wrap around. Reads nothing beyond the words; some
/// 60 GB/s with AVX2, 14 without. Any thread.
std::size_t find_word_in_range(const void* words, std::size_t count, std::size_t from,
                               std::uint64_t base, std::uint64_t size) noexcept;

namespace word_search_detail {
/// The same, a word at a time: for processors without more, and for comparison.
std::size_t find_plainly(const unsigned char* words, std::size_t count, std::size_t from,
                         std::uint64_t base, std::uint64_t size) noexcept;
}  // namespace word_search_detail

}  // namespace kvshim::preload
