// Addresses of freed pools, whose bits may still say present.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/guard_abi.h"
#include "vmm/units.h"

namespace kvshim::vmm {

/// They mean another pool only after their bits were cleared (I9). That is too early while
/// a guard is about to set some: it sets those of all that an answer names, of siblings too,
/// some time after it, and asks for nothing else before. Under the owning DeviceMemory's
/// mutex.
class FreedAddresses {
 public:
  /// A guard asks: what the last answer named has its bits set.
  void asked() {
    last_told_.clear();
    ++request_;
  }
  /// It is told that these are present.
  void told(const std::vector<AbiRun>& runs) { last_told_ = runs; }
  /// A guard may be setting bits of these granules just now.
  bool is_being_told(const AbiRun& granules) const;
  /// No guard is about to set any.
  void no_guard_runs();

  /// Of a pool that was freed just now.
  void add(const GranuleRun& pool);
  /// Takes out those whose bits can be cleared now.
  std::vector<GranuleRun> take_settled();
  /// They could not be cleared.
  void put_back(std::span<const GranuleRun> pools);
  /// The bitmap has ended.
  std::vector<GranuleRun> take_all();

 private:
  struct Freed {
    GranuleRun pool;
    std::uint64_t request;  // whose answer may be setting bits there; 0: none does
  };
  std::vector<Freed> freed_;
  std::uint64_t request_ = 0;  // how many there were
  std::vector<AbiRun> last_told_;
};

}  // namespace kvshim::vmm
