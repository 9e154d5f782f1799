// The options, as one table (options.def). The loader, the environment names,
// --set, the sample file and the reference page all come from it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvshim::config {

using Bytes = std::uint64_t;
using Duration = std::chrono::nanoseconds;

/// A size, or a share of the GPU's memory. Both 0: none.
struct Amount {
  Bytes bytes = 0;
  double share = 0;  // 0 to 1; then `bytes` is 0
  Bytes of(Bytes total) const {
    return share != 0 ? static_cast<Bytes>(share * static_cast<double>(total)) : bytes;
  }
};

enum class Contents : std::uint8_t { kPreserve, kDisposable };
enum class MemoryView : std::uint8_t { kPrivate, kPhysical };
enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError, kOff };

/// One [[rules]] entry; see heuristics::Rule for the meaning.
struct RuleOption {
  bool allow = true;
  std::string call_site;
  Bytes min_size = 0;
  Bytes max_size = UINT64_MAX;
  std::string role;
  std::string source;
};

/// All options with their defaults. KVSHIM_OPTION(type, name, default, text).
struct Options {
#define KVSHIM_OPTION(type, name, default_value, text) type name = default_value;
#include "config/options.def"
#undef KVSHIM_OPTION
  std::vector<RuleOption> rules;
};

}  // namespace kvshim::config
