#include "preload/newer_generation.h"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <string_view>

#include "observe/log.h"
#include "preload/real_dlsym.h"
#include "preload/shim.h"

namespace kvshim::preload {
namespace {

constexpr std::string_view kIntercepted[] = {
#define KVSHIM_ENTRY_POINT(name, role, area, note) #name,
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT
};

constexpr const char* kPassedThrough[] = {
#define KVSHIM_PASSED_THROUGH(name, reason) #name,
#define KVSHIM_HARMLESS(pattern, reason)
#include "preload/passed_through.def"
#undef KVSHIM_HARMLESS
#undef KVSHIM_PASSED_THROUGH
};

/// The name without generation and stream variant: cuMemcpyHtoD_v2_ptds -> cuMemcpyHtoD.
constexpr std::string_view family(std::string_view name) { return name.substr(0, name.find('_')); }

// Families noted, as indices of their first row in kIntercepted; noted before
// there is a log. Bits: noted, and reported.
std::array<std::atomic<unsigned char>, std::size(kIntercepted)> states{};
constexpr unsigned char kNoted = 1;
constexpr unsigned char kReported = 2;

}  // namespace

void note_unhooked(const char* symbol, void* function) noexcept {
  if (symbol == nullptr || function == nullptr) return;
  const std::string_view name = family(symbol);
  std::size_t row = 0;
  while (row < std::size(kIntercepted) && family(kIntercepted[row]) != name) ++row;
  if (row == std::size(kIntercepted)) return;
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    (void)dlerror();
    return;
  }
  bool on_purpose = false;
  for (const char* passed : kPassedThrough) {
    if (family(passed) != name) continue;
    on_purpose |= real_dlsym(library, passed) == function;
  }
  dlclose(library);
  (void)dlerror();
  if (on_purpose) return;
  states[row].fetch_or(kNoted, std::memory_order_relaxed);
  if (shim_active()) report_unhooked();
}

void report_unhooked() noexcept {
  for (std::size_t row = 0; row < std::size(kIntercepted); ++row) {
    if (states[row].load(std::memory_order_relaxed) != kNoted) continue;
    if (states[row].fetch_or(kReported, std::memory_order_relaxed) != kNoted) continue;
    const std::string_view name = family(kIntercepted[row]);
    char line[320];
    std::snprintf(line, sizeof line,
                  "this driver has a newer %.*s than this kvshim knows, and the process asked for "
                  "it: calls through it are not seen. If the engine stops with an illegal address, "
                  "use a newer kvshim or turn it off (KVSHIM_DISABLE=1)",
                  static_cast<int>(name.size()), name.data());
    log::warning(line);
  }
}

}  // namespace kvshim::preload
