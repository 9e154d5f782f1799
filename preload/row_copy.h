// Pitched copies in pieces. The driver refuses one whose destination lies in more
// than one mapping (INVALID_VALUE, measured on an H100:
// docs/results/driver_semantics.md), which a pool is made of; copies of plain ranges
// may span them.
#pragma once

#include <cuda.h>

#include "preload/copy_range.h"
#include "preload/gate.h"

namespace kvshim::preload {

/// Copies row by row, asynchronously, between linear sides of which at least one is
/// device memory. For use inside `submit`. Stops at the first error.
CUresult copy_rows(StreamRef stream, const CopySide& to, const CopySide& from,
                   const CopyExtent& extent);

/// Whether the driver would take the side if it were a plain allocation.
bool pitches_are_sane(const CopySide& side, const CopyExtent& extent);

}  // namespace kvshim::preload
