// The little of PTX that the simulator reads: names and parameters of kernels.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvshim::simulator {

struct PtxParam {
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

struct PtxEntry {
  std::string name;
  std::vector<PtxParam> params;
  std::size_t params_bytes = 0;
};

/// Variables of the module's global state space (initial values are not read:
/// they start as zero).
struct PtxVariable {
  std::string name;
  std::size_t bytes = 0;
};

struct PtxModule {
  std::vector<PtxEntry> entries;
  std::vector<PtxVariable> variables;
};

/// Nothing when the text is not PTX (no .version) or an entry can't be read.
std::optional<PtxModule> read_ptx(std::string_view text);

}  // namespace kvshim::simulator
