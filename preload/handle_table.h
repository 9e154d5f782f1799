// A map from a driver's handle to a record, read without a lock.
//
// Records are made on first sight and never freed or moved: a pointer to one may
// be kept for ever (thread-local caches do). What a record says can change; that
// is the record's own affair. Handles are addresses of the driver's objects, so
// the number of different values stays bounded by what lived at once.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace kvshim::preload {

/// Mixes the bits of a handle; addresses differ mostly in bits 4 to 30.
inline std::size_t hash_handle(const void* handle) noexcept {
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  return static_cast<std::size_t>((value >> 4) * 0x9E3779B97F4A7C15u >> 17);
}

/// Open addressing in segments that double: when one is half full, the next is
/// opened, so that readers never see a table being rebuilt.
template <class Record>
class HandleTable {
 public:
  /// The handle's record, or null. Any thread, no lock.
  Record* find(const void* handle) const noexcept {
    if (handle == nullptr) return nullptr;  // marks an empty slot
    for (std::size_t i = 0; i < kSegments; ++i) {
      const Slot* slots = segments_[i].load(std::memory_order_acquire);
      if (slots == nullptr) return nullptr;
      if (Record* record = find_in(slots, segment_size(i), handle)) return record;
    }
    return nullptr;
  }

  /// The handle's record, made when there is none. Null when memory is short or
  /// the table is full (more than four million handles).
  Record* find_or_add(const void* handle) noexcept {
    if (handle == nullptr) return nullptr;
    if (Record* record = find(handle)) return record;
    const std::lock_guard lock(mutex_);
    if (Record* record = find(handle)) return record;
    std::size_t last = 0;
    while (last + 1 < kSegments && segments_[last + 1].load(std::memory_order_relaxed) != nullptr) {
      ++last;
    }
    if (segments_[last].load(std::memory_order_relaxed) == nullptr && !open_segment(last)) {
      return nullptr;
    }
    if (used_ * 2 >= segment_size(last)) {
      if (last + 1 == kSegments || !open_segment(++last)) return nullptr;
      used_ = 0;
    }
    Record* record = new (std::nothrow) Record;
    if (record == nullptr) return nullptr;
    Slot* slots = segments_[last].load(std::memory_order_relaxed);
    const std::size_t mask = segment_size(last) - 1;
    std::size_t at = hash_handle(handle) & mask;
    while (slots[at].handle.load(std::memory_order_relaxed) != nullptr) at = (at + 1) & mask;
    slots[at].record = record;
    slots[at].handle.store(handle, std::memory_order_release);
    ++used_;
    return record;
  }

  /// Calls `visit(handle, record)` for every record made so far.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (std::size_t i = 0; i < kSegments; ++i) {
      const Slot* slots = segments_[i].load(std::memory_order_acquire);
      if (slots == nullptr) return;
      for (std::size_t at = 0; at < segment_size(i); ++at) {
        const void* handle = slots[at].handle.load(std::memory_order_acquire);
        if (handle != nullptr) visit(handle, *slots[at].record);
      }
    }
  }

 private:
  struct Slot {
    std::atomic<const void*> handle{nullptr};  // stored last
    Record* record = nullptr;
  };
  static constexpr std::size_t kSegments = 12;
  static constexpr std::size_t segment_size(std::size_t i) { return std::size_t{4096} << i; }

  static Record* find_in(const Slot* slots, std::size_t size, const void* handle) noexcept {
    const std::size_t mask = size - 1;
    for (std::size_t at = hash_handle(handle) & mask;; at = (at + 1) & mask) {
      const void* seen = slots[at].handle.load(std::memory_order_acquire);
      if (seen == handle) return slots[at].record;
      if (seen == nullptr) return nullptr;  // at most half full: always reached
    }
  }

  bool open_segment(std::size_t i) noexcept {
    Slot* slots = new (std::nothrow) Slot[segment_size(i)];
    if (slots == nullptr) return false;
    segments_[i].store(slots, std::memory_order_release);
    return true;
  }

  std::array<std::atomic<Slot*>, kSegments> segments_{};
  std::mutex mutex_;      // additions only
  std::size_t used_ = 0;  // slots taken in the last segment
};

}  // namespace kvshim::preload
