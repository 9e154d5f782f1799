// A set of addresses that grows as it has to, read and written on launches: no lock.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

namespace kvshim::preload {

/// Open addressing in segments of which each is four times the one before. An address goes
/// into the first segment that has a slot left where it is looked for, and no slot gets free
/// again (that of a forgotten address can be taken, and is passed by until then), so a search
/// ends at the first free slot: a set that never outgrew its first segment, which is part of
/// the object, costs what a plain table costs.
///
/// `first_bits`: the first segment has 2^first_bits slots of 8 bytes. Any thread, except
/// where said.
template <unsigned first_bits, std::size_t segments>
class AddressSet {
 public:
  AddressSet() = default;
  AddressSet(const AddressSet&) = delete;
  AddressSet& operator=(const AddressSet&) = delete;
  ~AddressSet() {
    for (const std::atomic<std::uint64_t*>& slots : later_) std::free(slots.load());
  }

  /// REQUIRES an address above 1. False when it is not in the set and there is no place for
  /// it: all segments are full where it would be, or there is no memory for the next.
  bool insert(std::uint64_t address) noexcept {
    for (;;) {
      const Place place = place_for(address);
      if (place.held == address) return true;
      if (place.slot == nullptr) return false;
      std::uint64_t held = place.held;
      const std::atomic_ref<std::uint64_t> slot(*place.slot);
      if (slot.compare_exchange_strong(held, address) || held == address) return true;
    }
  }

  bool contains(std::uint64_t address) const noexcept {
    for (std::size_t i = 0; i < segments; ++i) {
      std::uint64_t* const slots = slots_of(i);
      if (slots == nullptr) return false;
      for (std::size_t probe = 0; probe < kProbes; ++probe) {
        const std::uint64_t held = std::atomic_ref<std::uint64_t>(slots[index(address, i, probe)])
                                       .load(std::memory_order_relaxed);
        if (held == address) return true;
        if (held == kFree) return false;
      }
    }
    return false;
  }

  /// Forgets the addresses in [begin, begin + bytes), at memory speed over all slots.
  /// REQUIRES that nobody inserts one of them meanwhile.
  void forget(std::uint64_t begin, std::uint64_t bytes) noexcept {
    for (std::size_t i = 0; i < segments; ++i) {
      std::uint64_t* const slots = slots_of(i);
      if (slots == nullptr) return;
      for (std::size_t at = 0; at < size(i); ++at) {
        const std::atomic_ref<std::uint64_t> slot(slots[at]);
        const std::uint64_t held = slot.load(std::memory_order_relaxed);
        if (held - begin < bytes) slot.store(kForgotten, std::memory_order_relaxed);
      }
    }
  }

 private:
  static constexpr std::uint64_t kFree = 0, kForgotten = 1;
  static constexpr std::size_t kProbes = 32;
  static constexpr unsigned bits(std::size_t i) {
    return first_bits + 2 * static_cast<unsigned>(i);
  }
  static constexpr std::size_t size(std::size_t i) { return std::size_t{1} << bits(i); }
  static std::size_t index(std::uint64_t address, std::size_t i, std::size_t probe) noexcept {
    const std::uint64_t hash = address * 0x9E37'79B9'7F4A'7C15u;
    return (static_cast<std::size_t>(hash >> (64 - bits(i))) + probe) & (size(i) - 1);
  }

  /// Where the address is, or would go: `held` tells which.
  struct Place {
    std::uint64_t* slot = nullptr;  // null: nowhere
    std::uint64_t held = kFree;
  };
  Place place_for(std::uint64_t address) noexcept {
    Place forgotten;
    for (std::size_t i = 0; i < segments; ++i) {
      std::uint64_t* const slots = forgotten.slot != nullptr ? slots_of(i) : opened(i);
      if (slots == nullptr) return forgotten;
      for (std::size_t probe = 0; probe < kProbes; ++probe) {
        std::uint64_t* const slot = &slots[index(address, i, probe)];
        const std::uint64_t held =
            std::atomic_ref<std::uint64_t>(*slot).load(std::memory_order_relaxed);
        if (held == address) return {slot, held};
        if (held == kFree) return forgotten.slot != nullptr ? forgotten : Place{slot, held};
        if (held == kForgotten && forgotten.slot == nullptr) forgotten = {slot, held};
      }
    }
    return forgotten;
  }

  std::uint64_t* slots_of(std::size_t i) const noexcept {
    return i == 0 ? first_.data() : later_[i - 1].load(std::memory_order_acquire);
  }
  std::uint64_t* opened(std::size_t i) noexcept {
    std::uint64_t* slots = slots_of(i);
    if (slots != nullptr) return slots;
    // Zeroed by the system page by page, as they are touched.
    auto* const made = static_cast<std::uint64_t*>(std::calloc(size(i), sizeof(std::uint64_t)));
    if (made == nullptr) return nullptr;
    if (later_[i - 1].compare_exchange_strong(slots, made, std::memory_order_acq_rel)) return made;
    std::free(made);
    return slots;  // another thread's
  }

  mutable std::array<std::uint64_t, std::size_t{1} << first_bits> first_{};
  std::array<std::atomic<std::uint64_t*>, segments - 1> later_{};
};

}  // namespace kvshim::preload
