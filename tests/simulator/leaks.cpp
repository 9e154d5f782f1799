#include "tests/simulator/leaks.h"

#include <cstdio>
#include <string>

#include "tests/simulator/address_space.h"
#include "tests/simulator/gpu_memory.h"
#include "tests/simulator/injection.h"
#include "tests/simulator/memory_handles.h"
#include "tests/simulator/virtual_memory.h"

namespace kvshim::simulator {

void write_leaks() {
  const std::string name = report_file("KVSHIM_SIM_LEAKS");
  if (name.empty()) return;
  std::FILE* file = std::fopen(name.c_str(), "we");
  if (file == nullptr) return;
  const auto line = [file](const char* what, Tally tally) {
    std::fprintf(file, "%s %zu %zu\n", what, tally.count, tally.bytes);
  };
  line("handles", live_handles());
  line("reservations", live_reservations());
  line("mappings", live_ranges(RangeKind::kMapping));
  line("allocations", live_ranges(RangeKind::kDevice));
  line("managed", live_ranges(RangeKind::kManaged));
  line("host_allocations", live_ranges(RangeKind::kHost));
  line("host_registrations", live_ranges(RangeKind::kRegistered));
  line("gpu_bytes", {1, GpuMemory::instance().used_here()});
  std::fclose(file);
}

}  // namespace kvshim::simulator
