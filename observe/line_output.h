// Where log lines go: standard error or a file, one write(2) for each line.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <string>
#include <string_view>

namespace kvshim::log {

/// Writes whole lines to a descriptor without ever interleaving with what
/// others write there: a line is one write of at most PIPE_BUF bytes, which
/// pipes and O_APPEND files take in one piece. Used by one thread at a time;
/// close_soon() may be called from any.
class LineOutput {
 public:
  /// Standard error: whatever descriptor 2 is at the time of each line.
  LineOutput() = default;
  ~LineOutput();
  LineOutput(const LineOutput&) = delete;
  LineOutput& operator=(const LineOutput&) = delete;

  /// Appends to `path` from now on: a file, a terminal or another character device, or a
  /// pipe that somebody reads. False (errno set, standard error stays) when it is nothing of
  /// that or can't be opened. Never waits.
  bool append_to(const std::string& path);

  /// Whether lines go to a file of their own.
  bool is_file() const noexcept { return !path_.empty(); }
  const std::string& path() const noexcept { return path_; }

  /// Writes `line`, which ends in a newline. Waits while a pipe is full, but
  /// gives the line up once close_soon() was called and kPatience has passed.
  /// False (errno set) when the line was not written as a whole.
  bool write_line(std::string_view line) noexcept;

  /// From now on a reader that doesn't read can't hold the process up.
  void close_soon() noexcept;

  /// Longest line, its newline included; longer ones are cut.
  static constexpr std::size_t kMaxLine = 4096;
  /// Milliseconds in all that a stuck reader is waited for at the end.
  static constexpr int kPatience = 200;

 private:
  int descriptor() noexcept;
  bool wait_for_room(int descriptor) noexcept;
  bool gives_up() const noexcept;
  void spend_a_slice() noexcept;

  std::string path_;
  int file_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::atomic<bool> closing_{false};
  int patience_left_ = kPatience;
};

}  // namespace kvshim::log
