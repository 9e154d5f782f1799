#include "observe/line_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace kvshim::log {
namespace {

constexpr int kSlice = 20;  // milliseconds

}  // namespace

LineOutput::~LineOutput() {
  // Only our own descriptor: see descriptor() for why it may be another's now.
  if (file_ >= 0 && descriptor() == file_) ::close(file_);
}

bool LineOutput::append_to(const std::string& path) {
  // O_NONBLOCK: a pipe that nobody reads would be waited for.
  const int file =
      ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
  if (file < 0) return false;
  struct stat status {};
  const bool known = ::fstat(file, &status) == 0;
  if (!known || S_ISBLK(status.st_mode)) {
    const int error = known ? EINVAL : errno;
    ::close(file);
    errno = error;
    return false;
  }
  path_ = path;
  file_ = file;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  return true;
}

// Programs that turn into daemons close all descriptors, ours too, and the
// number then belongs to somebody else: writing there would corrupt their data.
int LineOutput::descriptor() noexcept {
  if (file_ < 0) return STDERR_FILENO;
  struct stat status {};
  if (::fstat(file_, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) {
    return file_;
  }
  file_ = -1;
  try {
    if (append_to(std::string(path_))) return file_;
  } catch (...) {  // no memory: standard error will do
  }
  return STDERR_FILENO;
}

bool LineOutput::gives_up() const noexcept {
  return closing_.load(std::memory_order_relaxed) && patience_left_ <= 0;
}

bool LineOutput::wait_for_room(int descriptor) noexcept {
  for (;;) {
    const bool give_up = gives_up();
    pollfd request{descriptor, POLLOUT, 0};
    const int ready = ::poll(&request, 1, give_up ? 0 : kSlice);
    if (ready > 0) {
      if ((request.revents & (POLLERR | POLLNVAL)) == 0) return true;
      errno = (request.revents & POLLNVAL) != 0 ? EBADF : EPIPE;
      return false;
    }
    if (ready < 0 && errno != EINTR) return false;
    if (give_up) {
      errno = ETIMEDOUT;
      return false;
    }
    spend_a_slice();
  }
}

void LineOutput::spend_a_slice() noexcept {
  if (closing_.load(std::memory_order_relaxed)) patience_left_ -= kSlice;
}

bool LineOutput::write_line(std::string_view line) noexcept {
  char cut[kMaxLine];
  if (line.size() > kMaxLine) {
    constexpr std::string_view kEnd = " ...\n";
    std::memcpy(cut, line.data(), kMaxLine - kEnd.size());
    std::memcpy(cut + kMaxLine - kEnd.size(), kEnd.data(), kEnd.size());
    line = {cut, kMaxLine};
  }
  const int out = descriptor();
  while (!line.empty()) {
    // A pipe that polls as writable has room for PIPE_BUF bytes: no blocking.
    if (!wait_for_room(out)) return false;
    const ssize_t written = ::write(out, line.data(), line.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN || gives_up()) return false;
      // Another writer was faster, or the device has less room than it says.
      ::poll(nullptr, 0, kSlice);
      spend_a_slice();
      continue;
    }
    line.remove_prefix(static_cast<std::size_t>(written));  // partial only on a full disk or tty
  }
  return true;
}

void LineOutput::close_soon() noexcept { closing_.store(true, std::memory_order_relaxed); }

}  // namespace kvshim::log
