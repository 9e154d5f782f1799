// The bar that shows how a GPU's memory is divided.
#pragma once

#include <vector>

#include "tools/kvshim/screen.h"

namespace kvshim::cli {

/// "[AAAaa~BBbb##....]", `width` columns: for the process with letter A its other
/// memory (capitals), its pools in GPU memory (small letters) and its caches (~),
/// in the order of `processes`; then # for programs without kvshim, and . for free.
/// What is not 0 gets at least one column while there is room. `letters` as in
/// process_table.
Line gpu_bar(const GpuFigures& gpu, const std::vector<int>& letters, int width);

}  // namespace kvshim::cli
