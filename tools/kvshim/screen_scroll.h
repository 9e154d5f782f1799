// Which lines of the GPUs and their processes a screen shows that has no room for all.
#pragma once

#include <cstddef>
#include <vector>

#include "tools/kvshim/screen.h"

namespace kvshim::cli {

/// A line of a GPU's part of the screen: headings first, then a line for each process.
struct BodyLine {
  Line line;
  std::size_t part = 0;  // the place of its part's first line in the body
  bool is_process = false;
  bool is_selected = false;
};

/// At most `rows` (1 or more) lines of the body. Where not all processes fit, the selected one is
/// among those shown, each below the headings of its GPU as far as there is room, and the last
/// line says how many are above and below ("+3 more above, +11 more below"; not on a single
/// row). Without a selection the body is shown from its beginning.
std::vector<Line> visible_lines(const std::vector<BodyLine>& body, std::size_t rows);

}  // namespace kvshim::cli
