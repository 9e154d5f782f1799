// What the driver lets other threads of a context do while one is in a copy that waits.
#pragma once

#include <string>

namespace kvshim::bench {

struct MappingDevice;

/// For each kind of copy and each call of another thread: whether the call waits until the copy
/// has ended. Prints lines of JSON; the answer is a table to be read.
/// Takes some 20 s at most, 6 s on the simulator.
std::string measure_held_copies(const MappingDevice& on, bool simulator);

}  // namespace kvshim::bench
