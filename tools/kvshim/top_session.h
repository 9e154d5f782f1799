// What kvshim top remembers between keys and samples; knows no terminal.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tools/kvshim/screen.h"

namespace kvshim::cli {

/// Keys that are no characters.
inline constexpr int kKeyUp = 0x110000;
inline constexpr int kKeyDown = 0x110001;
inline constexpr int kKeyEscape = 0x1b;
inline constexpr int kKeyBackspace = 0x7f;
inline constexpr int kKeyEnter = '\n';

class TopSession {
 public:
  enum class Request { kNone, kQuit, kSample, kLimit, kRelease, kPause };

  explicit TopSession(double interval);

  /// A key was pressed. What is left to be done by the caller; for kLimit
  /// `typed()` is the value, for the others see `selected_process()`.
  Request press(int key);
  void take(Snapshot snapshot);
  /// Says something in the foot until the next key.
  void say(std::string message);

  std::vector<Line> draw(int width, int height, const std::string& clock);
  const ProcessFigures* selected_process() const;
  const std::string& selected_gpu() const { return view_.gpu; }
  const std::string& typed() const { return typed_; }
  double interval() const { return interval_; }
  View& view() { return view_; }

 private:
  using Choice = std::pair<std::string, std::int64_t>;  // GPU and process
  std::vector<Choice> choices() const;
  void move(int by);
  Request press_while_asked(int key);

  Snapshot now_;
  Snapshot before_;
  bool two_samples_ = false;
  History history_;
  View view_;
  bool asked_ = false;  // for a limit
  std::string typed_;
  double interval_;
};

}  // namespace kvshim::cli
