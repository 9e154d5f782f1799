// JSON documents on standard output.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {

/// Prints the document with a newline at its end. Bytes that are no UTF-8 are
/// replaced.
void print_json(const nlohmann::json& document);

/// null for none or unknown (0 or kNoLimit), else the bytes.
nlohmann::json json_bytes(std::uint64_t bytes);

/// null for unknown (0), else the time in UTC: "2026-12-01T02:12:44Z".
nlohmann::json json_time(std::int64_t unix_seconds);

/// The whole snapshot, with rates since `before` (may be null).
nlohmann::json json_of(const Snapshot& now, const Snapshot* before);

}  // namespace kvshim::cli
