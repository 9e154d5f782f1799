// When a process started, as people and programs write times.
#pragma once

#include <cstdint>
#include <string>

namespace kvshim::cli {

/// What turns the kernel's ticks since boot into times of day.
struct BootClock {
  std::uint64_t boot = 0;  // segment::Identity::boot; 0: unknown
  double booted = 0;       // Unix seconds
  std::int64_t ticks_per_second = 100;
};

/// Of this machine, by its clocks as they stand now.
BootClock boot_clock();

/// Unix seconds of a start `ticks` after the boot with the hash `boot`; 0: unknown (no ticks, or
/// another boot than the clock's).
std::int64_t unix_start(const BootClock& clock, std::uint64_t boot, std::uint64_t ticks);

/// "2026-12-01T02:12:44Z" (RFC 3339, UTC); empty: unknown.
std::string utc_text(std::int64_t unix_seconds);
/// "2026-12-01 03:12:44" in the user's time zone; empty: unknown.
std::string local_text(std::int64_t unix_seconds);

}  // namespace kvshim::cli
