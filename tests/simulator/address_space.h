// What lies at which address: one ordered table of everything the GPU may
// touch. Device addresses are host addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "tests/simulator/api.h"

namespace kvshim::simulator {

struct Context;

inline constexpr std::uint64_t kPageBytes = std::uint64_t{2} << 20;
constexpr std::uint64_t round_to_page(std::uint64_t bytes) {
  return (bytes + kPageBytes - 1) & ~(kPageBytes - 1);
}

enum class RangeKind : std::uint8_t {
  kDevice,      // cuMemAlloc and relatives
  kMapping,     // cuMemMap: one mapping of one handle
  kHost,        // cuMemHostAlloc
  kRegistered,  // cuMemHostRegister
  kManaged,     // cuMemAllocManaged
};

struct Range {
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  RangeKind kind = RangeKind::kDevice;
  Context* context = nullptr;                                 // null for mappings
  std::uint64_t buffer_id = 0;                                // set by add()
  std::uint64_t reservation_base = 0, reservation_bytes = 0;  // kMapping
  unsigned access = 0;                                        // kMapping: CUmemAccess_flags
  bool on_host = false;                                       // memory that lives in the host
  unsigned flags = 0;           // as given to cuMemHostAlloc or cuMemHostRegister
  std::uint64_t charged = 0;    // bytes taken from the GPU for it
  CUmemoryPool pool = nullptr;  // cuMemAllocAsync
  bool of_graph = false;        // allocated by a node
  bool sync_memops = false;
  std::uint64_t end() const { return base + bytes; }
};

struct Tally {
  std::size_t count = 0;
  std::size_t bytes = 0;
};

/// All functions are thread-safe.
void add_range(Range range);
/// Removes the range that starts at `base`; nothing when there is none or it
/// is of another kind.
std::optional<Range> take_range(std::uint64_t base, RangeKind kind);
/// The range that holds `address`.
std::optional<Range> find_range(std::uint64_t address);
/// Changes one range in place; false when none starts at `base`.
bool change_range(std::uint64_t base, void (*change)(Range&, std::uint64_t), std::uint64_t value);
/// Whether the GPU may touch all of [address, address + bytes): no hole, and
/// every mapping in it has been given the access asked for. 0 bytes: always.
enum class AccessKind : std::uint8_t { kRead, kWrite };
bool is_covered(std::uint64_t address, std::uint64_t bytes, AccessKind kind = AccessKind::kRead);
/// The same, as a driver's call looks at the mappings of a copy or fill: with
/// KVSHIM_SIM_LOOKS_TAKE it takes that long, and crashes when one of them changes meanwhile
/// (measured: docs/results/driver_semantics.md).
bool is_covered_at_a_look(std::uint64_t address, std::uint64_t bytes,
                          AccessKind kind = AccessKind::kRead);
/// Whether `address` belongs to anything in the table.
bool is_known(std::uint64_t address);
Tally live_ranges(RangeKind kind);
/// Removes all ranges of a context that is destroyed, one at a time.
std::optional<Range> take_any_range_of(const Context* context);

}  // namespace kvshim::simulator
