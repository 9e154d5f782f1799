#include "preload/word_search.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <random>
#include <vector>

namespace kvshim::preload {
namespace {

constexpr std::uint64_t kBase = 0x7f40'0000'0000, kSize = std::uint64_t{192} << 30;

TEST(WordSearch, FindsWhatTheWordByWordSearchFinds) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000; ++round) {
    const std::uint64_t size = round % 3 == 0 ? kSize : round % 3 == 1 ? 1 : std::uint64_t{1} << 36;
    std::vector<std::uint64_t> words(random() % 100);
    for (std::uint64_t& word : words) {
      switch (random() % 8) {
        case 0:
          word = kBase + random() % size;
          break;
        case 1:
          word = kBase - 1;
          break;
        case 2:
          word = kBase + size;
          break;
        case 3:
          word = kBase ^ (random() & 0xffff'ffff);
          break;
        default:
          word = random() % 400'000 * 0x1'0000'0001;
          break;
      }
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(words.data());
    for (std::size_t from = 0; from <= words.size(); ++from) {
      ASSERT_EQ(find_word_in_range(words.data(), words.size(), from, kBase, size),
                word_search_detail::find_plainly(bytes, words.size(), from, kBase, size))
          << "round " << round << ", from " << from;
    }
  }
}

TEST(WordSearch, FindsTheRangesFirstAndLastAddressAnywhere) {
  for (std::size_t place = 0; place < 67; ++place) {
    for (const std::uint64_t word : {kBase, kBase + kSize - 1}) {
      std::vector<std::uint64_t> words(67, kBase + kSize);
      words[place] = word;
      EXPECT_EQ(find_word_in_range(words.data(), words.size(), 0, kBase, kSize), place);
      EXPECT_EQ(find_word_in_range(words.data(), words.size(), place + 1, kBase, kSize), 67u);
    }
  }
}

TEST(WordSearch, ARangeOverAllLeadingBitsIsSearchedToo) {
  const std::vector<std::uint64_t> words(20, 7);
  EXPECT_EQ(find_word_in_range(words.data(), 20, 0, 7, std::uint64_t{1} << 63), 0u);
  EXPECT_EQ(find_word_in_range(words.data(), 20, 0, 8, ~std::uint64_t{0} - 8), 20u);
}

// Host memory may end right behind the payload.
TEST(WordSearch, ReadsNothingBeyondTheWords) {
  constexpr std::size_t kPage = 4096;
  auto* const pages = static_cast<unsigned char*>(
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(mprotect(pages + kPage, kPage, PROT_NONE), 0);
  for (std::size_t count = 0; count < 80; ++count) {
    const unsigned char* begin = pages + kPage - count * 8;
    EXPECT_EQ(find_word_in_range(begin, count, 0, kBase, kSize), count);
  }
  munmap(pages, 2 * kPage);
}

TEST(WordSearch, TheWordsNeedNoAlignment) {
  std::vector<unsigned char> bytes(50 * 8 + 3);
  const std::uint64_t word = kBase + 12345;
  std::memcpy(bytes.data() + 3 + 41 * 8, &word, sizeof(word));
  EXPECT_EQ(find_word_in_range(bytes.data() + 3, 50, 0, kBase, kSize), 41u);
}

}  // namespace
}  // namespace kvshim::preload
