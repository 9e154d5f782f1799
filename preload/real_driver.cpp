#include "preload/real_driver.h"

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>

#include "preload/real_dlsym.h"

namespace kvshim::preload {
namespace {

struct Field {
  const char* name;
  std::size_t offset;
};

// Entry points first, in the order of entry_points.def: their index is the row.
constexpr Field kFields[] = {
#define KVSHIM_ENTRY_POINT(name, role, area, note) {#name, offsetof(RealDriver, name)},
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT
#define KVSHIM_CALLED(name) {#name, offsetof(RealDriver, name)},
#include "preload/called_only.def"
#undef KVSHIM_CALLED
};

/// The driver's functions and, by their addresses, the rows of the table. Made
/// once, never freed (hooks run until the process has ended).
struct FoundDriver {
  RealDriver functions;
  // Open addressing, half empty. A row is kept with its address; several rows
  // can share one address in a driver that aliases variants: the first stays.
  static constexpr std::size_t kSlots = 1024;
  static_assert(kEntryPointCount * 2 < kSlots);
  struct Slot {
    const void* address = nullptr;
    int row = -1;
  };
  std::array<Slot, kSlots> slots{};

  static std::size_t first_slot(const void* address) noexcept {
    // Fibonacci hashing: entry points lie 16 bytes or more apart.
    const auto word = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(address));
    return static_cast<std::size_t>((word * 0x9E3779B97F4A7C15u) >> 54);
  }

  void insert(const void* address, int row) noexcept {
    for (std::size_t i = first_slot(address);; i = (i + 1) % kSlots) {
      if (slots[i].address == address) return;
      if (slots[i].address == nullptr) {
        slots[i] = {address, row};
        return;
      }
    }
  }

  int row_of(const void* address) const noexcept {
    for (std::size_t i = first_slot(address);; i = (i + 1) % kSlots) {
      if (slots[i].address == address) return slots[i].row;
      if (slots[i].address == nullptr) return -1;
    }
  }
};

constexpr RealDriver kNothing;
std::atomic<const FoundDriver*> driver_and_rows{nullptr};

void* function_at(const RealDriver& table, std::size_t offset) noexcept {
  void* function = nullptr;
  std::memcpy(&function, reinterpret_cast<const char*>(&table) + offset, sizeof function);
  return function;
}

}  // namespace

namespace real_driver_detail {

std::atomic<const RealDriver*> found{nullptr};

const RealDriver& find() noexcept {
  // Only a driver that the process itself has loaded: without RTLD_NOLOAD this
  // would bring CUDA into processes that never asked for it. The handle is kept,
  // so the table stays valid.
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) {
    (void)dlerror();
    return kNothing;
  }
  // Threads that come here together each fill a table and one of them stays. A
  // lock could deadlock with the loader's: a library's constructor may call us
  // under it while another thread waits for it in dlsym.
  auto* candidate = new (std::nothrow) FoundDriver;
  if (candidate == nullptr) return kNothing;
  int row = 0;
  for (const Field& field : kFields) {
    void* function = real_dlsym(library, field.name);
    std::memcpy(reinterpret_cast<char*>(&candidate->functions) + field.offset, &function,
                sizeof function);
    if (function != nullptr && row < kEntryPointCount) candidate->insert(function, row);
    ++row;
  }
  // A function that an older driver lacks left an error message, which the
  // host's next dlerror() would take for its own.
  (void)dlerror();
  const FoundDriver* expected = nullptr;
  if (!driver_and_rows.compare_exchange_strong(expected, candidate, std::memory_order_acq_rel)) {
    delete candidate;
    found.store(&expected->functions, std::memory_order_release);
    return expected->functions;
  }
  found.store(&candidate->functions, std::memory_order_release);
  return candidate->functions;
}

}  // namespace real_driver_detail

int entry_point_row(const void* real_function) noexcept {
  (void)real();
  const FoundDriver* driver = driver_and_rows.load(std::memory_order_acquire);
  return driver != nullptr && real_function != nullptr ? driver->row_of(real_function) : -1;
}

void* real_function_of_row(int row) noexcept { return function_at(real(), kFields[row].offset); }

int entry_point_named(const char* name) noexcept {
  // Lengths differ mostly, so this is about 200 comparisons of integers.
  static constexpr std::string_view kNames[] = {
#define KVSHIM_ENTRY_POINT(name, role, area, note) #name,
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT
  };
  const std::string_view wanted(name);
  for (int row = 0; row < kEntryPointCount; ++row) {
    if (wanted == kNames[row]) return row;
  }
  return -1;
}

const char* entry_point_name(int row) noexcept { return kFields[row].name; }

}  // namespace kvshim::preload
