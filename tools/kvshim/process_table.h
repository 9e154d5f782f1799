// The table of processes in kvshim top and kvshim list.
#pragma once

#include <string>
#include <vector>

#include "tools/kvshim/screen.h"
#include "tools/kvshim/screen_order.h"

namespace kvshim::cli {

/// A heading and one line for each row, in their order, `width` columns wide.
/// Columns that don't fit are left out, the least important first. `letters[i]`
/// numbers the letter that row i has in the bar; -1: none.
std::vector<Line> process_table(const std::vector<Row>& rows, const std::vector<int>& letters,
                                const std::string& sort, int width);

/// The letter of the process with that number: 'A' to 'Z', '*' beyond.
char letter_of(int number);

}  // namespace kvshim::cli
