// Sizes and times as people write them: "64MiB", "1.5GB", "2s", "300ms".
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "config/options.h"

namespace kvshim::config {

/// Reads a size: a number and a unit (B, KiB, MiB, GiB, TiB; KB, MB, GB, TB as
/// powers of 1000; K, M, G, T as powers of 1024; capitals don't matter; no unit:
/// bytes). Nothing, and `*complaint` says why, when it isn't one or isn't below
/// 2^64.
std::optional<Bytes> parse_bytes(std::string_view text, std::string* complaint);

/// Reads a time: a number and a unit (ns, us, ms, s, m or min, h, d). The unit
/// is required, since nobody remembers a default one. Nothing, and `*complaint`
/// says why, when it isn't one or is longer than 100 years.
std::optional<Duration> parse_duration(std::string_view text, std::string* complaint);

/// The shortest exact way to write the value that the functions above read.
std::string format_bytes(Bytes value);
std::string format_duration(Duration value);

}  // namespace kvshim::config
