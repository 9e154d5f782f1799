// The orders that top and list know, by name.
#pragma once

#include <string>
#include <vector>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {

/// "kv", "other", "parked", "absent", "faults", "released", "limit", "idle", "pid", "name".
std::vector<std::string> sort_names();

/// The name after `name`, and the first after the last.
std::string next_sort(const std::string& name);

/// A process with its rates.
struct Row {
  ProcessFigures figures;
  Rates rates;
};

/// Sorts by the named column, largest first (pid and name: smallest first); equal
/// rows by process id, so that a screen doesn't flicker.
void sort_rows(std::vector<Row>& rows, const std::string& name);

}  // namespace kvshim::cli
