#include "tools/kvshim/control_rules.h"

#include <charconv>

#include "config/quantities.h"
#include "tools/kvshim/figures_text.h"
#include "tools/kvshim/outcome.h"
#include "tools/kvshim/snapshot.h"

namespace kvshim::cli {
namespace {

std::uint64_t share_of(const std::string& text, std::uint64_t total) {
  double percent = 0;
  const char* const end = text.data() + text.size() - 1;  // before the '%'
  const auto [stop, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc() || stop != end || !(percent > 0)) {
    throw Failure(Exit::kUsage, "'" + printable(text) + "' is no share: say for instance 50%");
  }
  if (percent > 100) {
    throw Failure(Exit::kRefused, printable(text) + " is more than the GPU has; say at most 100%");
  }
  if (total == 0) {
    throw Failure(Exit::kRefused,
                  "the size of the GPU is not known, so a share of it isn't either; give a size");
  }
  return static_cast<std::uint64_t>(static_cast<double>(total) * percent / 100);
}

void check_fits_gpu(const Target& target, std::uint64_t bytes, const char* what) {
  const std::uint64_t total = target.record->identity.gpu_total;
  if (total != 0 && bytes > total) {
    throw Failure(Exit::kRefused, std::string(what) + " of " + long_bytes(bytes) +
                                      " is more than the GPU of " + target.label + " has (" +
                                      long_bytes(total) + ")");
  }
}

}  // namespace

std::uint64_t read_amount(const std::string& text, std::uint64_t total) {
  if (text == "none") return 0;
  if (text.ends_with('%')) return share_of(text, total);
  std::string complaint;
  const auto bytes = config::parse_bytes(text, &complaint);
  if (!bytes) {
    throw Failure(Exit::kUsage, "'" + printable(text) + "': " + complaint +
                                    "; say for instance 20GiB, 50% or none");
  }
  if (*bytes == 0) {
    throw Failure(Exit::kRefused, "0 can't be; say none to lift it");
  }
  return *bytes;
}

void check_limit(const Target& target, std::uint64_t limit) {
  if (limit == 0) return;
  check_fits_gpu(target, limit, "a limit");
  const segment::Figures& figures = target.record->figures;
  if (limit < figures.other_bytes) {
    throw Failure(Exit::kRefused,
                  "a limit of " + long_bytes(limit) + " is below what " + target.label +
                      " has beside its pools (" + long_bytes(figures.other_bytes) +
                      " of weights, activations and the like), which can't be released");
  }
  const std::uint64_t reserve = target.record->control.reserve;
  if (limit < reserve) {
    throw Failure(Exit::kRefused, "a limit of " + long_bytes(limit) + " is below the reserve of " +
                                      target.label + " (" + long_bytes(reserve) +
                                      "); lower the reserve first");
  }
}

void check_reserve(const Target& target, std::uint64_t reserve) {
  if (reserve == 0) return;
  check_fits_gpu(target, reserve, "a reserve");
  const std::uint64_t limit = target.record->control.limit;
  if (limit != 0 && reserve > limit) {
    throw Failure(Exit::kRefused, "a reserve of " + long_bytes(reserve) +
                                      " is above the limit of " + target.label + " (" +
                                      long_bytes(limit) + "); raise the limit first");
  }
  std::uint64_t others = 0;
  for (const segment::RecordSnapshot& record : target.gpu->records) {
    if (!record.live || record.index == target.record->index) continue;
    others += record.control.reserve;
  }
  const std::uint64_t total = target.record->identity.gpu_total;
  if (total != 0 && (others > total || reserve > total - others)) {
    throw Failure(Exit::kRefused, "a reserve of " + long_bytes(reserve) + " and those of the " +
                                      "other processes (" + long_bytes(others) +
                                      ") are more than the GPU has (" + long_bytes(total) + ")");
  }
}

}  // namespace kvshim::cli
