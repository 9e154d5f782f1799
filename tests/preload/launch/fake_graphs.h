// The fake driver's graphs and executables.
#pragma once

#include "tests/preload/launch/fake_driver.h"

namespace kvshim::preload::testing {

/// Lives until it is destroyed, or as long as the driver.
CUgraph new_graph();
/// Everything of a driver that makes, reads, edits, copies and launches graphs.
void fill_graph_functions(RealDriver& table);

}  // namespace kvshim::preload::testing
