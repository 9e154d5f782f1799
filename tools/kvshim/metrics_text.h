// A snapshot in Prometheus' text exposition format.
#pragma once

#include <string>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {

/// All figures: each family with HELP and TYPE, base units, counters with _total.
/// Pure.
std::string metrics_text(const Snapshot& snapshot);

}  // namespace kvshim::cli
