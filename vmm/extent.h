// Extents: the pieces a pool's addresses are mapped in.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace kvshim::vmm {

/// I3: only absent -> resident | parked, resident <-> parked, and
/// resident | parked -> absent with a proof (ProofOfAbsence).
enum class ExtentState : std::uint8_t {
  kAbsent,    // logically zero; mapped read-only to a shared zero handle
  kResident,  // own GPU memory, read-write
  kParked,    // own host memory, mapped in place, read-write
};

/// Why contents may be forgotten.
enum class ProofOfAbsence : std::uint8_t { kZero, kDroppedByRule, kFreed };

struct Extent {
  std::uint8_t order = 0;
  ExtentState state = ExtentState::kAbsent;
  CUmemGenericAllocationHandle handle = 0;  // 0 when absent
  std::uint64_t written_serial = 0;         // order of faults: larger is more recent; 0 when absent
  // Releasing thread's tick of its last fault, parking or return.
  std::uint64_t parked_tick = 0;
  // Resident: since that tick its bits are clear and nobody has asked for it, so nobody
  // has written it. 0: not known.
  std::uint64_t watched_tick = 0;
  // At which readers were last seen to read it, or the row of a sibling. 0: never.
  std::uint64_t read_tick = 0;
  // At which it was last asked for or seen to be read; parking and returning don't change it.
  std::uint64_t used_tick = 0;
  bool cold = false;       // parked because it was not used for long: comes back when it is
  std::uint32_t move = 0;  // Move::number of its move beside work; 0: none

  bool present() const { return state != ExtentState::kAbsent; }
};

}  // namespace kvshim::vmm
