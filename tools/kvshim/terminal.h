// The terminal, drawn with ncurses.
#pragma once

#include <memory>
#include <vector>

#include "tools/kvshim/screen.h"

namespace kvshim::cli {

/// Full screen while it lives; the destructor puts the terminal back. One at a time.
class Terminal {
 public:
  static constexpr int kNoKey = -1;

  /// Throws Failure(kUsage) when the terminal (TERM) is not known.
  Terminal();
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  int width() const;
  int height() const;
  bool is_unicode() const;
  void draw(const std::vector<Line>& lines);
  /// A character, one of top_session.h's keys, or kNoKey after at most that long
  /// or when the size has changed.
  int wait_for_key(double seconds);
  /// Whether the terminal went away (its window was closed).
  bool is_gone() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvshim::cli
