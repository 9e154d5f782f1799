#include "preload/start_amounts.h"

#include <algorithm>

#include "config/quantities.h"

namespace kvshim::preload {
namespace {

std::uint64_t most(std::uint64_t limit, std::uint64_t total) {
  return limit != 0 ? std::min(limit, total) : total;
}

}  // namespace

std::uint64_t reserve_at_start(const config::Options& options, std::uint64_t limit,
                               std::uint64_t total) {
  return std::min(options.reserve.of(total), most(limit, total));
}

std::vector<std::string> oversized_amounts(const config::Options& options, std::uint64_t limit,
                                           std::uint64_t total) {
  std::vector<std::string> lines;
  if (options.limit.of(total) > total) {
    lines.push_back("a limit of " + config::format_bytes(options.limit.of(total)) +
                    " is above the GPU's " + std::to_string(total >> 20) +
                    " MiB and has no effect (option limit)");
  }
  const std::uint64_t reserve = reserve_at_start(options, limit, total);
  if (options.reserve.of(total) > reserve) {
    lines.push_back("a reserve of " + config::format_bytes(options.reserve.of(total)) +
                    " is above what the process can have and counts as " +
                    std::to_string(reserve >> 20) + " MiB (option reserve)");
  }
  return lines;
}

}  // namespace kvshim::preload
