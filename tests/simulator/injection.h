// What happens at the door of every entry point: counting, injected delays
// and failures, and the state checks of its row.
//
// Environment, read at the first call:
//   KVSHIM_SIM_FAIL=cuMemCreate:3[+][=2],...  the third (with +: and every later) call of the
//       entry point fails with the CUresult (default 2, out of memory); names with or without
//       suffix (_v2, _ptsz) are accepted, a bare name counts all its variants together.
//   KVSHIM_SIM_DELAY=cuMemMap:100us,...       each call takes that much longer (us, ms, s)
//   KVSHIM_SIM_TRACE=FILE                     counts by entry point, written at exit
//   KVSHIM_SIM_LEAKS=FILE                     what is still alive at exit (see leaks.cpp)
// %p in a file name becomes the process id.
#pragma once

#include <string>

#include "tests/simulator/api.h"

namespace kvshim::simulator {

/// Called by every exported symbol before anything else. Thread-safe, no lock
/// unless something is injected for this row.
CUresult enter(unsigned row, Needs needs) noexcept;

/// A file name from the environment with %p replaced; empty when unset.
std::string report_file(const char* variable);

/// Calls of row `row` so far (all threads).
unsigned long calls_of(unsigned row) noexcept;

/// Writes the trace if asked for. At exit only.
void write_trace();

}  // namespace kvshim::simulator
