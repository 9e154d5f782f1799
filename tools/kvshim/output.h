// Standard output: whether what was printed has arrived.
#pragma once

#include "tools/kvshim/outcome.h"

namespace kvshim::cli {

/// Writes out what was printed so far. 0, or the errno of the first write to standard
/// output that failed (EIO where the C library kept none): it stays so.
int flush_output();

/// The exit code of a command that ended with `code`, when its output is flushed. Output
/// that is lost is told on standard error, and makes of kDone kCannotWrite; a reader that
/// went away (kvshim list | head) is none's fault and told nobody.
Exit with_output_flushed(Exit code);

}  // namespace kvshim::cli
