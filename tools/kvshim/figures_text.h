// Figures in few columns, for tables and messages.
#pragma once

#include <cstdint>
#include <string>

namespace kvshim::cli {

/// At most five characters: "0", "512K", "1023M", "12.3G", "1.50T". Truncated, not
/// rounded up, so that a nearly full GPU does not look full.
std::string short_bytes(std::uint64_t bytes);

/// "12.3 GiB", "20 bytes", for messages; truncated. Nothing is "0 KiB".
std::string long_bytes(std::uint64_t bytes);

/// At most five characters: "0", "7", "1234", "12.3k", "1.2M".
std::string short_count(double count);

/// At most five characters, from microseconds: "101us", "3.3ms", "1.2s".
std::string short_microseconds(std::uint64_t microseconds);

/// At most five characters, from seconds: "0.4s", "59s", "5m", "3h", "12d".
std::string short_seconds(double seconds);

}  // namespace kvshim::cli
