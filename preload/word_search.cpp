#include "preload/word_search.h"

#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvshim::preload {

std::size_t word_search_detail::find_plainly(const unsigned char* words, std::size_t count,
                                             std::size_t from, std::uint64_t base,
                                             std::uint64_t size) noexcept {
  for (std::size_t i = from; i < count; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, words + i * sizeof(word), sizeof(word));
    if (word - base < size) return i;
  }
  return count;
}

namespace {

using word_search_detail::find_plainly;

#if defined(__x86_64__)
// Sixteen words at a time: whether one agrees with the range in the leading bits that
// all of the range has in common. Where one does, the words themselves decide. (AVX2
// has no comparison of unsigned words; token and block numbers seldom look like it.)
__attribute__((target("avx2"))) std::size_t find_with_avx2(const unsigned char* words,
                                                           std::size_t count, std::size_t from,
                                                           std::uint64_t base,
                                                           std::uint64_t size) noexcept {
  constexpr std::size_t kAtOnce = 16;
  const auto differing = static_cast<int>(std::bit_width(base ^ (base + size - 1)));
  const std::uint64_t common = differing == 64 ? 0 : ~std::uint64_t{0} << differing;
  const __m256i mask = _mm256_set1_epi64x(static_cast<long long>(common));
  const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(base & common));
  std::size_t i = from;
  for (; i + kAtOnce <= count; i += kAtOnce) {
    __m256i any = _mm256_setzero_si256();
    for (std::size_t k = 0; k < kAtOnce; k += 4) {
      const __m256i four =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + (i + k) * 8));
      any = _mm256_or_si256(any, _mm256_cmpeq_epi64(_mm256_and_si256(four, mask), wanted));
    }
    if (_mm256_testz_si256(any, any) != 0) continue;
    const std::size_t found = find_plainly(words, i + kAtOnce, i, base, size);
    if (found != i + kAtOnce) return found;
  }
  return find_plainly(words, count, i, base, size);
}

bool has_avx2() noexcept {
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
}
#endif

}  // namespace

std::size_t find_word_in_range(const void* words, std::size_t count, std::size_t from,
                               std::uint64_t base, std::uint64_t size) noexcept {
  const auto* const bytes = static_cast<const unsigned char*>(words);
#if defined(__x86_64__)
  if (has_avx2()) return find_with_avx2(bytes, count, from, base, size);
#endif
  return find_plainly(bytes, count, from, base, size);
}

}  // namespace kvshim::preload
