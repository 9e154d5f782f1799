// The log: spdlog behind a small front, so that only one file compiles it.
// Inert (drops everything, opens nothing) until open() is called.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "config/options.h"

namespace kvshim::log {

/// Opens the log (stderr when `file` is empty; else appends). Once per
/// process; called when the shim becomes active. A file that can't be opened
/// falls back to stderr with a line that says so. Asynchronous with a bounded
/// queue that drops the oldest: a hook never blocks on it. Lines start with
/// "kvshim[pid]:", in a file with the time before that, in UTC.
void open(config::LogLevel level, const std::string& file);
/// Writes out what is queued and stops the log's thread; idempotent.
void close() noexcept;
/// In a forked child: forget the parent's thread without touching it.
void abandon_after_fork() noexcept;

bool enabled(config::LogLevel level) noexcept;
/// Any thread, any lock state; never throws, never blocks on output. `when`: it happened.
void write(config::LogLevel level, std::string_view text,
           std::chrono::system_clock::time_point when = std::chrono::system_clock::now()) noexcept;

inline void debug(std::string_view text) noexcept { write(config::LogLevel::kDebug, text); }
inline void info(std::string_view text) noexcept { write(config::LogLevel::kInfo, text); }
inline void warning(std::string_view text) noexcept { write(config::LogLevel::kWarning, text); }
inline void error(std::string_view text) noexcept { write(config::LogLevel::kError, text); }

}  // namespace kvshim::log
