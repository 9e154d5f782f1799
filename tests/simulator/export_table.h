// Every exported symbol as a row: for cuGetProcAddress, counting and injection.
#pragma once

#include <cstddef>
#include <span>

namespace kvshim::simulator {

struct ExportRow {
  const char* name;  // as exported, e.g. "cuMemcpyHtoD_v2_ptds"
  int version;       // the CUDA version it came with, e.g. 12030
  void* address;
};

/// In the order of entry_points.def: the index is the row number of enter().
std::span<const ExportRow> export_rows() noexcept;
/// The number of rows, a constant for arrays.
// NOLINTBEGIN(bugprone-macro-parentheses): terms of one sum
inline constexpr std::size_t kExportRows = 0
#define SIM_ENTRY(name, version, needs) +1
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs) +2
#define SIM_ABSENT(name, version) +1
#include "tests/simulator/entry_points.def"
    ;
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace kvshim::simulator
