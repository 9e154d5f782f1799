// kvshim metrics.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "tools/kvshim/commands.h"
#include "tools/kvshim/metrics_server.h"
#include "tools/kvshim/metrics_text.h"
#include "tools/kvshim/snapshot_source.h"

namespace kvshim::cli {
namespace {

constexpr int kProbe_ms = 100;

[[noreturn]] void fail(const std::string& path) {
  throw Failure(errno == EACCES || errno == EPERM ? Exit::kNoPermission : Exit::kCannotWrite,
                path + ": " + std::strerror(errno));
}

/// Whole or not at all: a collector may read at any time.
void write_whole(const std::string& path, const std::string& text) {
  const std::string next = path + "." + std::to_string(::getpid()) + ".next";
  const int file = ::open(next.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) fail(next);
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(file, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    done += static_cast<std::size_t>(count);
  }
  const bool whole = done == text.size() && ::fchmod(file, 0644) == 0;
  const int error = errno;
  ::close(file);
  if (!whole || ::rename(next.c_str(), path.c_str()) != 0) {
    if (!whole) errno = error;
    const int kept = errno;
    ::unlink(next.c_str());
    errno = kept;
    fail(path);
  }
}

}  // namespace

Exit run_metrics(const Invocation& invocation) {
  const std::string folder = segment_folder();
  GpuProbe probe;
  const auto page = [&] { return metrics_text(take_snapshot(folder, &probe, kProbe_ms)); };
  if (!invocation.listen.empty()) {
    const ListenAddress address = parse_listen(invocation.listen);
    if (!is_loopback(address)) {
      std::fprintf(stderr, "kvshim: others can reach %s; the figures name processes\n",
                   address.host.c_str());
    }
    serve_metrics(address, page, [&](std::uint16_t port) {
      const bool six = address.host.find(':') != std::string::npos;
      std::fprintf(stderr, "kvshim: serving http://%s%s%s:%u/metrics\n", six ? "[" : "",
                   address.host.c_str(), six ? "]" : "", port);
    });
    return Exit::kDone;
  }
  if (invocation.file.empty()) {
    std::fputs(page().c_str(), stdout);
    return Exit::kDone;
  }
  for (;;) {
    write_whole(invocation.file, page());
    if (invocation.interval <= 0) return Exit::kDone;
    std::this_thread::sleep_for(std::chrono::duration<double>(invocation.interval));
  }
}

}  // namespace kvshim::cli
