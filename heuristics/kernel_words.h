// Which aligned words of a kernel's parameters can be pool addresses, by the
// parameter types in its name and the table of known by-value types. PyTorch's
// kernels carry old pool addresses in unused parts of by-value structs, so
// "every word" would make whole pools present on each step.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "heuristics/kernel_catalog.h"
#include "heuristics/kernel_name.h"
#include "heuristics/profile_data.h"

namespace kvshim::heuristics {

struct KernelWords {
  std::vector<WordPlace> words;
  std::vector<bool> read_only;  // parallel to `words`
  /// Words of this parameter are live only up to the grid's extent.
  struct LiveLimit {
    std::uint16_t param;
    int grid_dimension;
  };
  std::vector<LiveLimit> live_limits;
  /// What the list rests on, for the log.
  std::string note;
};

/// Whether the demangled parameter types fit the sizes the driver reports; if
/// not, types say nothing about this kernel.
bool types_fit(const KernelName& name, std::span<const ParamLayout> params);

/// `entry` (may be null) is the matching profile entry: its declared parameters
/// and words go before types. What can't be told is kept: every aligned word.
KernelWords find_words(const KernelName& name, std::span<const ParamLayout> params,
                       std::span<const TypeLayout* const> layouts, const KernelEntry* entry);

}  // namespace kvshim::heuristics
