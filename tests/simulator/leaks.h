// The report of what is alive when the process ends.
#pragma once

namespace kvshim::simulator {

/// Writes KVSHIM_SIM_LEAKS if asked for: one "name count bytes" a line.
void write_leaks();

}  // namespace kvshim::simulator
