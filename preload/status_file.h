// The status file as readers see it: always one whole document.
#pragma once

#include <mutex>
#include <string>
#include <utility>

namespace kvshim::preload {

/// Replaces a file by renaming, so that whoever reads it finds the document before or the one
/// after, never a part. Any thread. A forked child leaves it alone and makes one of its own:
/// its lock may be held by a thread that isn't there.
class StatusFile {
 public:
  explicit StatusFile(std::string path) : path_(std::move(path)) {}
  const std::string& path() const { return path_; }

  /// Nothing happens after write_last(). Errors leave the document before in place.
  void write(const std::string& text) { replace(text, false); }
  /// The process's last word.
  void write_last(const std::string& text) { replace(text, true); }

  /// Why the file could not be written, once, for the first failure; else empty.
  std::string take_complaint();

 private:
  void replace(const std::string& text, bool last);

  const std::string path_;
  std::mutex mutex_;  // guards what follows, and the file
  bool ended_ = false;
  bool complained_ = false;
  std::string complaint_;
};

}  // namespace kvshim::preload
