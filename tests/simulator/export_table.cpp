// Knows the symbols only as addresses: cuda.h, which declares their types,
// must not be included here.
#include "tests/simulator/export_table.h"

#define SIM_ENTRY(name, version, needs) \
  extern "C" __attribute__((visibility("hidden"))) void kvshim_sim_entry_##name();
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs)             \
  extern "C" __attribute__((visibility("hidden"))) void kvshim_sim_entry_##name(); \
  extern "C" __attribute__((visibility("hidden"))) void kvshim_sim_entry_##name##suffix();
#define SIM_ABSENT(name, version) \
  extern "C" __attribute__((visibility("hidden"))) void kvshim_sim_entry_##name();
#include "tests/simulator/entry_points.def"

namespace kvshim::simulator {

std::span<const ExportRow> export_rows() noexcept {
  static const ExportRow rows[] = {
#define SIM_ROW(name, version) {#name, version, reinterpret_cast<void*>(&kvshim_sim_entry_##name)},
#define SIM_ENTRY(name, version, needs) SIM_ROW(name, version)
#define SIM_STREAM_ENTRY(name, version, suffix, thread_version, needs) \
  SIM_ROW(name, version) SIM_ROW(name##suffix, thread_version)
#define SIM_ABSENT(name, version) SIM_ROW(name, version)
#include "tests/simulator/entry_points.def"
  };
  static_assert(sizeof(rows) / sizeof(rows[0]) == kExportRows);
  return rows;
}

}  // namespace kvshim::simulator
