#include "tools/kvshim/start_time.h"

#include <unistd.h>

#include <array>
#include <cmath>
#include <ctime>

#include "segment/contents.h"

namespace kvshim::cli {
namespace {

double seconds_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

using Split = std::tm* (*)(const std::time_t*, std::tm*);

std::string text_of(std::int64_t unix_seconds, const char* form, Split split) {
  const std::time_t when = unix_seconds;
  std::tm parts{};
  std::array<char, 40> text{};
  if (unix_seconds <= 0 || split(&when, &parts) == nullptr) return {};
  std::strftime(text.data(), text.size(), form, &parts);
  return text.data();
}

}  // namespace

BootClock boot_clock() {
  BootClock clock;
  clock.boot = segment::own_identity().boot;
  // The difference is what /proc/stat calls btime, which costs a pass over all interrupts there.
  clock.booted = seconds_of(CLOCK_REALTIME) - seconds_of(CLOCK_BOOTTIME);
  if (const long ticks = ::sysconf(_SC_CLK_TCK); ticks > 0) clock.ticks_per_second = ticks;
  return clock;
}

std::int64_t unix_start(const BootClock& clock, std::uint64_t boot, std::uint64_t ticks) {
  if (ticks == 0 || boot == 0 || boot != clock.boot) return 0;
  const double after = static_cast<double>(ticks) / static_cast<double>(clock.ticks_per_second);
  const double start = std::floor(clock.booted + after);
  // Ticks that nobody has lived are another process's lie.
  return start > 0 && start < 1e11 ? static_cast<std::int64_t>(start) : 0;
}

std::string utc_text(std::int64_t unix_seconds) {
  return text_of(unix_seconds, "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r);
}

std::string local_text(std::int64_t unix_seconds) {
  return text_of(unix_seconds, "%Y-%m-%d %H:%M:%S", ::localtime_r);
}

}  // namespace kvshim::cli
