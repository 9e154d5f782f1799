#include "segment/file_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#ifndef F_OFD_SETLK  // glibc shows them with _GNU_SOURCE only
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

namespace kvshim::segment {
namespace {

struct flock range(short type, std::int64_t at, std::int64_t bytes) noexcept {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = bytes;
  return lock;
}

}  // namespace

bool try_lock(int file, std::int64_t at) noexcept {
  struct flock lock = range(F_WRLCK, at, 1);
  int result = -1;
  do {
    result = fcntl(file, F_OFD_SETLK, &lock);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

bool lock_within(int file, std::int64_t at, std::chrono::milliseconds longest) noexcept {
  const auto deadline = std::chrono::steady_clock::now() + longest;
  for (;;) {
    if (try_lock(file, at)) return true;
    if (errno != EAGAIN && errno != EACCES) return false;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void unlock(int file, std::int64_t at) noexcept {
  struct flock lock = range(F_UNLCK, at, 1);
  fcntl(file, F_OFD_SETLK, &lock);
}

bool locked_by_other(int file, std::int64_t at, std::int64_t bytes) noexcept {
  struct flock lock = range(F_WRLCK, at, bytes);
  if (fcntl(file, F_OFD_GETLK, &lock) != 0) return true;
  return lock.l_type != F_UNLCK;
}

}  // namespace kvshim::segment
