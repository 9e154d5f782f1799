// The screen of kvshim top, as lines of styled text: a pure function of what is
// known. The terminal only draws it; tests compare it as text.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {

enum class Style : std::uint8_t {
  kPlain,
  kDim,
  kBold,
  kHeading,
  kWarning,
  kSelected,
  kProcess,  // in the color of its letter
};

struct Span {
  std::string text;  // UTF-8, every character one column wide
  Style style = Style::kPlain;
  int process = -1;  // for kProcess: the letter's number
};
using Line = std::vector<Span>;

/// What was seen of one GPU, oldest first: shares of its memory in use, 0 to 1.
using History = std::map<std::string, std::deque<double>>;  // by UUID

/// Adds the snapshot to the history; keeps the last 1000 samples of each GPU.
void remember(const Snapshot& snapshot, History* history);

/// What the user sees beside the figures.
struct View {
  std::string sort = "kv";
  std::string gpu;            // of the selected process
  std::int64_t selected = 0;  // its pid; 0: none
  bool help = false;
  bool unicode = true;  // whether history graphs may use block characters
  bool live = true;     // false for --once: no keys, no history
  std::string prompt;   // a question to the user, instead of the keys
  std::string message;  // the last answer
  std::string clock;    // "14:31:07"
  const History* history = nullptr;
};

/// At most `height` lines of at most `width` columns. `before` (may be null) gives
/// the rates. Works from 20 x 5 on. Where not all processes fit, the selected one is among
/// those shown, and a line says how many are not.
std::vector<Line> render(const Snapshot& now, const Snapshot* before, const View& view, int width,
                         int height);

/// The lines without styles, without blanks at their ends, each with a newline.
std::string plain_text(const std::vector<Line>& lines);

/// Columns that the text takes.
int columns_of(const std::string& utf8);

}  // namespace kvshim::cli
