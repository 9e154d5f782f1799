#include "text/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace kvshim::text {
namespace {

bool is_null_device(const struct stat& status) {
  return S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3);
}

/// 0 or an error number.
int read_to_end(int file, std::size_t most_bytes, std::string* text) {
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t count = ::read(file, buffer.data(), buffer.size());
    if (count == 0) return 0;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    if (text->size() + static_cast<std::size_t>(count) > most_bytes) return EFBIG;
    text->append(buffer.data(), static_cast<std::size_t>(count));
  }
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  const int number_;
};

}  // namespace

std::optional<std::string> read_text_file(const std::string& path, std::size_t most_bytes,
                                          ReadProblem* problem) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  std::string text;
  struct stat status {};
  int error = 0;
  if (file.number() < 0 || ::fstat(file.number(), &status) != 0) {
    error = errno;
  } else if (S_ISDIR(status.st_mode)) {
    error = EISDIR;
  } else if (is_null_device(status)) {
    return text;
  } else if (!S_ISREG(status.st_mode)) {
    *problem = {EINVAL, "not a regular file"};
    return std::nullopt;
  } else {
    error = read_to_end(file.number(), most_bytes, &text);
  }
  if (error == 0) return text;
  *problem = {error, std::strerror(error)};
  return std::nullopt;
}

}  // namespace kvshim::text
