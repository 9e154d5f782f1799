#include "tools/kvshim/output.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace kvshim::cli {
namespace {

bool reader_went_away() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return ::poll(&output, 1, 0) > 0 && (output.revents & POLLERR) != 0;
}

}  // namespace

int flush_output() {
  static int first_error = 0;
  const int error = std::fflush(stdout) != 0 ? errno : 0;
  if (first_error != 0) return first_error;
  first_error = error;
  // A print of more than the buffer holds wrote by itself, and dropped what it couldn't write.
  if (error == 0 && std::ferror(stdout) != 0) first_error = reader_went_away() ? EPIPE : EIO;
  return first_error;
}

Exit with_output_flushed(Exit code) {
  const int error = flush_output();
  if (error == 0 || error == EPIPE) return code;
  std::fprintf(stderr, "kvshim: can't write the output: %s\n", std::strerror(error));
  return code == Exit::kDone ? Exit::kCannotWrite : code;
}

}  // namespace kvshim::cli
