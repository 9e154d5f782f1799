// Amounts of the configuration, measured by the GPU that they are to hold on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/options.h"

namespace kvshim::preload {

/// The reserve that the configuration gives a process on a GPU of `total` bytes, at most what
/// it can have there: `limit` bytes (0: none).
std::uint64_t reserve_at_start(const config::Options& options, std::uint64_t limit,
                               std::uint64_t total);

/// One line for each of limit and reserve that a GPU of `total` bytes can't have.
std::vector<std::string> oversized_amounts(const config::Options& options, std::uint64_t limit,
                                           std::uint64_t total);

}  // namespace kvshim::preload
