// Two ways to keep a plain struct in memory that several processes map. Every
// shared word is a lock-free 64-bit atomic; nothing here waits for another
// process, and a writer that is killed between any two instructions leaves
// something that readers recognise.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>

namespace kvshim::segment {

using Word = std::atomic<std::uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8 && alignof(Word) == 8);
using HalfWord = std::atomic<std::uint32_t>;  // for futexes, which are 32 bits wide
static_assert(HalfWord::is_always_lock_free && sizeof(HalfWord) == 4);

/// What may be kept in a cell: no padding (it would be shared garbage), no
/// pointers (they mean nothing elsewhere), whole words.
template <class T>
concept Shareable = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> &&
                        std::has_unique_object_representations_v<T> && sizeof(T) %
                        8 ==
                    0;

template <class T>
using PlainWords = std::array<std::uint64_t, sizeof(T) / 8>;

/// FNV-1a over 64-bit words: finds torn and stray writes, no protection
/// against somebody who wants to deceive (that one has our uid anyway).
constexpr std::uint64_t checksum(const std::uint64_t* words, std::size_t count,
                                 std::uint64_t seed) noexcept {
  std::uint64_t sum = 0xcbf29ce484222325u ^ seed;
  for (std::size_t i = 0; i < count; ++i) {
    for (unsigned byte = 0; byte < 8; ++byte) {
      sum = (sum ^ (words[i] >> (8 * byte) & 0xffu)) * 0x100000001b3u;
    }
  }
  return sum != 0 ? sum : 1;
}

/// A seqlock for ONE writer at a time (who that is, the kernel's file lock on
/// the record says). Odd: being written, or its writer died in the middle;
/// the next write repairs it.
template <Shareable T>
class Seqlock {
 public:
  void write(const T& value) noexcept {
    const auto plain = std::bit_cast<PlainWords<T>>(value);
    const std::uint64_t odd = sequence_.load(std::memory_order_relaxed) | 1u;
    sequence_.store(odd, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    for (std::size_t i = 0; i < plain.size(); ++i) {
      words_[i].store(plain[i], std::memory_order_relaxed);
    }
    sequence_.store(odd + 1, std::memory_order_release);
  }
  /// One try: false while a write is under way (or was left half done).
  bool try_read(T* value) const noexcept {
    const std::uint64_t before = sequence_.load(std::memory_order_acquire);
    PlainWords<T> plain;
    for (std::size_t i = 0; i < plain.size(); ++i) {
      plain[i] = words_[i].load(std::memory_order_relaxed);
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    if ((before & 1u) != 0 || sequence_.load(std::memory_order_relaxed) != before) return false;
    *value = std::bit_cast<T>(plain);
    return true;
  }
  /// Changes with every write: a cheap question whether there is news.
  std::uint64_t sequence() const noexcept { return sequence_.load(std::memory_order_acquire); }

 private:
  Word sequence_;
  std::array<Word, sizeof(T) / 8> words_;
};

/// A value that several processes write, one at a time under a kernel file
/// lock. Two slots: a write fills the one that is not in force, then a single
/// store of the generation puts it in force. A writer killed before that store
/// has changed nothing; one killed after it has changed everything. The
/// checksum (over value, generation and place) catches writers that broke
/// the rules: readers then keep what they had.
template <Shareable T>
class Committed {
 public:
  enum class Read : std::uint8_t { kOk, kBusy, kCorrupt };

  /// Few nanoseconds; changes with every commit. 0: never written.
  std::uint64_t generation() const noexcept { return generation_.load(std::memory_order_acquire); }
  /// REQUIRES: the kernel lock of this cell. `place` tells cells apart.
  void commit(const T& value, std::uint64_t place) noexcept {
    std::uint64_t next = generation_.load(std::memory_order_relaxed) + 1;
    if (next == 0) next = 2;  // 0 means never written
    Slot& slot = slots_[next & 1u];
    const auto plain = std::bit_cast<PlainWords<T>>(value);
    // A reader of the generation before last may still be in this slot: its
    // second look at the generation, or the checksum, tells it.
    slot.sum.store(0, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    for (std::size_t i = 0; i < plain.size(); ++i) {
      slot.words[i].store(plain[i], std::memory_order_relaxed);
    }
    slot.sum.store(sum_of(plain, next, place), std::memory_order_release);
    generation_.store(next, std::memory_order_release);
  }
  /// One try. kBusy: commits overtook the reader, try again. `*generation` is
  /// that of the value read (or of the corrupt slot).
  Read try_read(std::uint64_t place, T* value, std::uint64_t* generation) const noexcept {
    const std::uint64_t now = generation_.load(std::memory_order_acquire);
    const Slot& slot = slots_[now & 1u];
    const std::uint64_t sum = slot.sum.load(std::memory_order_acquire);
    PlainWords<T> plain;
    for (std::size_t i = 0; i < plain.size(); ++i) {
      plain[i] = slot.words[i].load(std::memory_order_relaxed);
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    *generation = now;
    const bool whole =
        slot.sum.load(std::memory_order_relaxed) == sum && sum == sum_of(plain, now, place);
    if (whole) {
      *value = std::bit_cast<T>(plain);
      return Read::kOk;
    }
    return generation_.load(std::memory_order_relaxed) == now ? Read::kCorrupt : Read::kBusy;
  }

 private:
  struct Slot {
    Word sum;
    std::array<Word, sizeof(T) / 8> words;
  };
  static std::uint64_t sum_of(const PlainWords<T>& plain, std::uint64_t generation,
                              std::uint64_t place) noexcept {
    return checksum(plain.data(), plain.size(), generation * 0x9e3779b97f4a7c15u + place);
  }
  Word generation_;
  std::array<Slot, 2> slots_;
};

/// Tries again while a writer is under way, for some milliseconds at most (it may
/// have been preempted). False: left half done, for all one can see.
template <Shareable T>
bool read_whole(const Seqlock<T>& cell, T* value) noexcept {
  for (int tries = 0; tries < 200; ++tries) {
    if (cell.try_read(value)) return true;
    if (tries > 20) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  return false;
}

/// The same: false when the value in force is corrupt.
template <Shareable T>
bool read_whole(const Committed<T>& cell, std::uint64_t place, T* value,
                std::uint64_t* generation) noexcept {
  for (int tries = 0; tries < 200; ++tries) {
    const auto read = cell.try_read(place, value, generation);
    if (read != Committed<T>::Read::kBusy) return read == Committed<T>::Read::kOk;
  }
  return false;
}

}  // namespace kvshim::segment
