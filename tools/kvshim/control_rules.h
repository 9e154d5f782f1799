// What a limit, reserve or priority may be, checked before anything is changed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "segment/reader.h"
#include "tools/kvshim/target.h"

namespace kvshim::cli {

/// Reads "20GiB", "50%" (of `total`) or "none" (0). Throws Failure: kUsage when it
/// is none of these, kRefused for more than 100 % or a share of an unknown total.
std::uint64_t read_amount(const std::string& text, std::uint64_t total);

/// Throws Failure(kRefused) with the reason and the bounds when the limit or
/// reserve (bytes, 0: none) can't hold for that process.
void check_limit(const Target& target, std::uint64_t limit);
void check_reserve(const Target& target, std::uint64_t reserve);

}  // namespace kvshim::cli
