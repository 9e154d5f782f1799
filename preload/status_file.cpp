#include "preload/status_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

namespace kvshim::preload {
namespace {

/// 0 or an error number.
int write_whole(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : ENOSPC;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return 0;
}

/// 0 or an error number; then `path` is as it was.
int replace_file(const std::string& path, const std::string& text) {
  const std::string next = path + ".next";
  const int file = ::open(next.c_str(),
                          O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (file < 0) return errno;
  int error = write_whole(file, text);
  // Some file systems tell only here that there was no room.
  if (::close(file) != 0 && error == 0 && errno != EINTR) error = errno;
  if (error == 0 && ::rename(next.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) ::unlink(next.c_str());
  return error;
}

}  // namespace

void StatusFile::replace(const std::string& text, bool last) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, ended_ || last)) return;
  const int error = replace_file(path_, text);
  if (error == 0 || complained_) return;
  complained_ = true;
  complaint_ = "the status file " + path_ + " can't be written: " + std::strerror(error);
}

std::string StatusFile::take_complaint() {
  const std::lock_guard lock(mutex_);
  return std::exchange(complaint_, {});
}

}  // namespace kvshim::preload
